//! The db engine through its public face: against a model, under power cuts, on damaged files, with etcd's own tools.

mod crash;
mod damage;
mod model;
mod peers;
