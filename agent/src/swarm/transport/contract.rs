//! What every transport keeps, checked on the one in memory and on real sockets alike.

mod cases;
mod node;
