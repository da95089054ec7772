//! The pool by itself, many of them over one store that fails in every order, and all of it over a
//! store that fails at each write.

mod io;
mod pool;
mod simulation;
