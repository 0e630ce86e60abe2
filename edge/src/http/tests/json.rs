use std::time::Duration;

use super::*;

#[tokio::test]
async fn a_call_is_answered_with_its_message_and_its_metadata() {
    let (front, echo) = front();
    let answer = ask(&front, post("/v3/kv/range", r#"{"key":"YQ==","limit":"7"} behind"#)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, r#"{"kvs":[{"key":"YQ==","lease":"7"}],"count":"1"}"#);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("grpc-metadata-content-type"), Some("application/grpc"));
    assert_eq!(answer.header("grpc-metadata-x-served-by"), Some("echo"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(echo.calls.lock().unwrap()[0].0, "/etcdserverpb.KV/Range");
}

#[tokio::test]
async fn older_paths_and_escaped_ones_lead_to_the_same_method() {
    let (front, _) = front();
    for path in ["/v3beta/kv/range", "/v3/kv%2Frange", "/v3/kv/range?x=y"] {
        assert_eq!(ask(&front, post(path, r#"{"key":"YQ=="}"#)).await.status, 200, "{path}");
    }
    assert_eq!(ask(&front, post("/v3alpha/kv/range", "")).await.body, "404 page not found\n");
}

#[tokio::test]
async fn an_error_has_the_code_in_its_status_and_its_body() {
    let (front, _) = front();
    let answer = ask(&front, post("/v3/kv/range", "")).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body, r#"{"code":3,"message":"etcdserver: key is not provided"}"#);
    assert_eq!(answer.header("grpc-metadata-content-type"), None);
    let statuses = [499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
    for (code, status) in (1..).zip(statuses) {
        let body = format!(r#"{{"key":"YQ==","value":"{}"}}"#, encoded(&code.to_string()));
        let answer = ask(&front, post("/v3/kv/put", body)).await;
        assert_eq!(answer.status.as_u16(), status, "{code}");
        assert_eq!(answer.body, format!(r#"{{"code":{code},"message":"a \"reason\""}}"#));
        let authenticate = (code == 16).then_some("a \"reason\"");
        assert_eq!(answer.header("www-authenticate"), authenticate);
    }
}

#[tokio::test]
async fn metadata_behind_an_answer_reaches_who_takes_trailers() {
    let (front, _) = front();
    for (te, body, expected) in [
        ("trailers", "{}", Some("application/grpc")),
        ("gzip;q=0.5, Trailers", "{}", Some("application/grpc")),
        ("gzip", "{}", None),
        // Nothing stands behind an answer of one message.
        ("trailers", r#"{"key":"YQ=="}"#, None),
    ] {
        let (head, body) = front.client(with_header(post("/v3/kv/range", body), "te", te)).await.into_parts();
        let announced = head.headers.get("trailer").map(|name| name.to_str().unwrap());
        assert_eq!(announced, expected.and(Some("grpc-trailer-content-type")), "{te}");
        // In HTTP/1.1 a length would leave no room for trailers.
        assert_eq!(http_body::Body::size_hint(&body).exact().is_none(), expected.is_some());
        let body = body.collect().await.unwrap();
        let trailer = body.trailers().and_then(|trailers| trailers.get("grpc-trailer-content-type"));
        assert_eq!(trailer.map(|value| value.to_str().unwrap()), expected);
    }
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn errors_take_the_shape_of_older_releases_on_request() {
    let options = Options { error_shape: ErrorShape::Legacy, ..Options::default() };
    let (front, _) = front_with(options, State::default());
    let key = "etcdserver: key is not provided";
    let answer = ask(&front, post("/v3/kv/range", "{}")).await;
    assert_eq!(answer.body, format!(r#"{{"error":"{key}","code":3,"message":"{key}"}}"#));
    let answer = ask(&front, post("/v3/maintenance/snapshot", "{}")).await;
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.body,
        "{\"error\":{\"grpc_code\":7,\"http_code\":403,\"message\":\"etcdserver: permission denied\",\"http_status\":\"Forbidden\"}}\n"
    );
    let answer = ask(&front, get("/v3/kv/range")).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (405, "Method Not Allowed\n"));
    let answer = ask(&front, post("/v3/nothing", "{}")).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (404, "Not Found\n"));
}

#[tokio::test]
async fn a_path_needs_a_method_and_a_method_needs_a_post() {
    let (front, _) = front();
    let answer = ask(&front, get("/v3/kv/range")).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (501, r#"{"code":12,"message":"Method Not Allowed"}"#));
    for path in ["/v3/nothing", "/v3/", "/v3/kv/range/", "/v3/kv/range:verb", "/v3/kv/rangestream"] {
        let answer = ask(&front, post(path, "{}")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (404, r#"{"code":5,"message":"Not Found"}"#),
            "{path}"
        );
    }
    let (front, _) = front_with(Options { json: false, ..Options::default() }, State::default());
    assert_eq!(ask(&front, post("/v3/kv/range", "{}")).await.body, "404 page not found\n");
}

#[tokio::test]
async fn a_body_that_is_no_request_is_refused_in_its_own_words() {
    let (front, echo) = front();
    let answer = ask(&front, post("/v3/kv/range", r#"{"key":"!"}"#)).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body, r#"{"code":3,"message":"proto: (line 1:8): invalid value for bytes field key: \"!\""}"#);
    assert!(echo.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_before_it_is_buffered() {
    let options = Options { max_message_bytes: 1000, ..Options::default() };
    let (front, echo) = front_with(options, State::default());
    let answer = ask(&front, post("/v3/kv/range", vec![b' '; 4001])).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.body, r#"{"code":8,"message":"grpc: received message larger than max (4001 vs. 1000)"}"#);
    // The same without a length in front.
    let pieces =
        futures::stream::repeat_with(|| Ok::<_, crate::BoxError>(http_body::Frame::data(vec![b' '; 100].into())));
    let endless =
        ::http::Request::post("/v3/kv/range").body(Body::new(http_body_util::StreamBody::new(pieces))).unwrap();
    assert_eq!(ask(&front, endless).await.status, 429);
    assert!(echo.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn header_fields_become_metadata_by_the_gateways_rules() {
    let (front, echo) = front();
    let mut request = post("/v3/kv/range", r#"{"key":"YQ=="}"#);
    for (name, value) in [
        ("authorization", "a-token"),
        ("accept", "*/*"),
        ("token", "not forwarded"),
        ("x-custom", "not forwarded"),
        ("grpc-metadata-token", "t"),
        ("grpc-metadata-hasleader", "true"),
        ("grpc-metadata-trace-bin", "AAE="),
        ("grpc-metadata-te", "not forwarded"),
        ("grpc-metadata-connection", "not forwarded"),
        ("grpc-metadata-grpc-timeout", "not forwarded"),
        ("grpc-metadata-", "not forwarded"),
        ("x-forwarded-for", "1.2.3.4"),
    ] {
        request = with_header(request, name, value);
    }
    request.extensions_mut().insert(crate::listener::Peer { address: "[::1]:80".parse().unwrap() });
    assert_eq!(ask(&front, request).await.status, 200);
    let (_, metadata) = echo.calls.lock().unwrap().pop().unwrap();
    let mut seen: Vec<_> = metadata.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("authorization", "a-token"),
            ("content-type", "application/grpc"),
            ("grpcgateway-accept", "*/*"),
            ("grpcgateway-authorization", "a-token"),
            ("hasleader", "true"),
            ("te", "trailers"),
            ("token", "t"),
            ("trace-bin", "AAE"),
            ("x-forwarded-for", "1.2.3.4, ::1"),
            ("x-forwarded-host", "here:2379"),
        ]
    );
}

#[tokio::test]
async fn metadata_that_cannot_be_sent_is_refused_or_left_out() {
    let (front, echo) = front();
    let answer = ask(&front, with_header(post("/v3/kv/range", "{}"), "grpc-metadata-x-bin", "!!")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("invalid binary header"), "{}", answer.body);
    let mut request = post("/v3/kv/range", r#"{"key":"YQ=="}"#);
    request.headers_mut().insert("authorization", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    assert_eq!(ask(&front, request).await.status, 200);
    let (_, metadata) = echo.calls.lock().unwrap().pop().unwrap();
    assert!(!metadata.contains_key("authorization"));
}

#[tokio::test]
async fn a_certificate_is_not_passed_on_as_a_user() {
    struct NoTls;
    impl Service for NoTls {
        fn call(&self, request: Request) -> BoxFuture<'static, Response> {
            assert!(request.extensions().get::<Tls>().is_none());
            std::future::ready(grpc::refuse(Status::aborted("seen"))).boxed()
        }
    }
    let registry = Registry::new();
    let front = Front::new(Api::new(NoTls), Arc::new(State::default()), Options::default(), &registry).unwrap();
    let mut request = post("/v3/kv/range", "{}");
    request.extensions_mut().insert(Tls { common_name: Some("root".to_owned()) });
    assert_eq!(ask(&front, request).await.status, 409);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_the_caller_ends_the_call() {
    let (front, echo) = front();
    for (timeout, sent) in [("5S", "5000000u"), ("1m", "1000000n"), ("2H", "7200000m"), ("100000000n", "100000u")] {
        let started = tokio::time::Instant::now();
        let answer = ask(&front, with_header(post("/v3/kv/compaction", "{}"), "grpc-timeout", timeout)).await;
        assert_eq!(answer.status, 504, "{timeout}");
        assert_eq!(answer.body, r#"{"code":4,"message":"context deadline exceeded"}"#);
        let (_, metadata) = echo.calls.lock().unwrap().pop().unwrap();
        assert_eq!(metadata["grpc-timeout"], sent);
        assert!(started.elapsed() < Duration::from_secs(7201));
    }
    for expired in ["-5S", "-1n"] {
        let answer = ask(&front, with_header(post("/v3/kv/compaction", "{}"), "grpc-timeout", expired)).await;
        assert_eq!(answer.status, 504, "{expired}");
        assert!(echo.calls.lock().unwrap().is_empty(), "a call that nobody waits for is not made");
    }
    for wrong in ["x", "5X", "S", "5", "1.5S", "é"] {
        let answer = ask(&front, with_header(post("/v3/kv/compaction", "{}"), "grpc-timeout", wrong)).await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert_eq!(answer.body, format!(r#"{{"code":3,"message":"invalid grpc-timeout: {wrong}"}}"#));
    }
    let answer = ask(&front, with_header(post("/v3/kv/range", "{}"), "grpc-timeout", "0S")).await;
    assert_eq!(answer.status, 400, "zero is none");
}
