//! The pool by itself, and many of them over one store that fails in every order.

mod pool;
mod simulation;
