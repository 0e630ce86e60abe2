//! From a request to a routed call.

use forebay_edge::{Request, grpc};
use tokio::time::Instant;
use tonic::Status;

use crate::{call::Call, methods::Method};

/// Reads the path and the deadline.
///
/// A path is exactly `/service/Method`. Everything else is refused with grpc-go's words before any
/// other layer sees it, so that routing, limits and the upstream can never read one path in two
/// ways. Well-formed paths of services and methods that nobody here knows pass.
pub(crate) fn route(request: Request) -> Result<Call, Status> {
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    if !is_canonical(path) {
        return Err(grpc::unknown_method(path));
    }
    let method = Method::find(path);
    let deadline = grpc::deadline(request.headers(), Instant::now().into_std())?;
    Ok(Call { method, deadline: deadline.map(Instant::from_std), request: Box::new(request) })
}

fn is_canonical(path: &str) -> bool {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_service = |byte: u8| is_word(byte) || byte == b'.';
    !service.is_empty() && !method.is_empty() && service.bytes().all(is_service) && method.bytes().all(is_word)
}

#[cfg(test)]
mod tests {
    use forebay_edge::Body;
    use http::Uri;
    use tonic::Code;

    use super::*;

    fn routed(path: &str) -> Result<Call, Status> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse::<Uri>().expect("a URI");
        route(request)
    }

    #[test]
    fn one_spelling_of_a_path_is_routed() {
        assert_eq!(routed("/etcdserverpb.KV/Range").unwrap().method.path, "/etcdserverpb.KV/Range");
        assert_eq!(routed("http://host:1/etcdserverpb.KV/Range").unwrap().method.path, "/etcdserverpb.KV/Range");
        assert_eq!(routed("/new.Service/Method_2").unwrap().method.label(), "other");
        for path in [
            "/",
            "/etcdserverpb.KV",
            "/etcdserverpb.KV/",
            "//Range",
            "//etcdserverpb.KV/Range",
            "/etcdserverpb.KV//Range",
            "/etcdserverpb.KV/Range/",
            "/etcdserverpb.KV/Range?x=1",
            "/etcdserverpb.KV/%52ange",
            "/etcdserverpb%2EKV/Range",
            "/etcdserverpb.KV/Ran;ge",
            "*",
        ] {
            let status = routed(path).err().expect(path);
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
        }
        let case = routed("/etcdserverpb.kv/range").unwrap();
        assert_eq!(case.method.label(), "other", "another case is another service");
    }

    #[test]
    fn refusals_have_grpc_gos_words() {
        let text = |path| routed(path).err().expect(path).message().to_owned();
        assert_eq!(text("/etcdserverpb.KV/Range?x"), "unknown method Range?x for service etcdserverpb.KV");
        assert_eq!(text("/etcdserverpb.KV//Range"), "unknown service etcdserverpb.KV/");
        assert_eq!(text("/nothing"), "malformed method name: \"/nothing\"");
    }
}
