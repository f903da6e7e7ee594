//! The algorithms: generic over instruction set and element, without an intrinsic and without Python.

pub(crate) mod activation;
pub(crate) mod pointwise;
pub(crate) mod tile;
