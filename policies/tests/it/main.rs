//! Admission put together from its parts, under load in simulated time.

mod model;
mod overload;
mod tenants;
