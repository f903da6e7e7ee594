//! The models are in `rust/threads/models.rs`. How to run them: `just loom`.

#![allow(dead_code, unused_imports, reason = "the passes are not here")]

#[path = "../../rust"]
mod rust {
    mod threads;
}
