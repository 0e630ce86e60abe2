//! The way of a request through the gateway, outside in: the order on the page is the order in
//! which a call meets the layers.

use std::sync::Arc;

use forebay_edge::{Api, Request, Response, Service, grpc};
use futures::future::BoxFuture;
use tower::{ServiceBuilder, layer::layer_fn};

use crate::{
    admission::{Admission, Admit, Queue},
    call::Handler,
    config::Config,
    layers::{Deadline, Drain, Draining, Hops, KeepAlive, Members, Observe, route},
    metrics::Metrics,
    mirror::Mirror,
    rescue::Rescue,
    upstream::Upstream,
};

/// Builds the stack over an upstream.
pub(crate) fn build(
    config: &Config,
    upstream: Upstream,
    admission: &Admission,
    metrics: Metrics,
    draining: Draining,
) -> Api {
    let stack = ServiceBuilder::new()
        .layer(layer_fn(|inner| Observe::new(inner, metrics.clone()))) // counts what clients are told, at the real end of each call
        .layer(layer_fn(|inner| Rescue::new(inner, metrics.clone()))) // from here on failures; above, statuses that clients can bear
        .layer(layer_fn(|inner| Drain::new(inner, draining.clone()))) // shutting down: no new calls, unary ones finish, streams end
        .layer(layer_fn(|inner| Hops::new(inner, config.id, config.max_hops))) // no circles of gateways
        .layer(layer_fn(Deadline::new)) // ends a call itself, so that the rescue decides what a cut-off write is told
        .layer(layer_fn(|inner| Admit::new(inner, admission.clone(), config.max_message_bytes))) // who asks for what: limits and quotas, settled when the answer has passed
        .layer(layer_fn(|inner| admission.quotas(inner))) // no more objects under a prefix than it may have
        .layer(layer_fn(|inner| Members::new(inner, config.advertise_client_urls.clone()))) // clients that follow the member list stay here
        .layer(layer_fn(KeepAlive::new)) // keep-alive streams outlive the upstream's
        .layer(layer_fn(|inner| {
            Mirror::new(inner, config.mirror.as_ref(), &upstream, config.max_message_bytes, &metrics.mirror)
        })) // ranges and watches from here, if the upstream vouches for the caller
        .layer(layer_fn(|inner| admission.lists(inner, config.admission.lists_in_pages))) // large lists in pages, and one for all who ask the same
        .layer(layer_fn(|inner| Queue::new(inner, admission.clone()))) // a seat of the upstream for every call, in fair order
        .service(upstream.clone()); // sizes, retries that cannot repeat a write, balancing; bytes both ways
    Api::new(Stack(Arc::new(stack)))
}

/// The built stack as an API. Routing comes before it: only calls with one readable path enter.
struct Stack<H>(Arc<H>);

impl<H: Handler> Service for Stack<H> {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let call = match route(request) {
            Ok(call) => call,
            Err(status) => return Box::pin(std::future::ready(grpc::refuse(status))),
        };
        let stack = Arc::clone(&self.0);
        Box::pin(async move {
            match stack.handle(call).await {
                Ok(response) => response,
                Err(failure) => unreachable!("the rescue lets no failure pass: {failure}"),
            }
        })
    }
}
