use super::*;

#[tokio::test]
async fn every_response_carries_the_cors_fields_if_any_page_may_read_it() {
    let (front, _) = front();
    for request in [get("/version"), get("/nothing"), post("/v3/kv/range", "x"), get("//version")] {
        let answer = ask(&front, request).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST, GET, OPTIONS, PUT, DELETE"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("accept, content-type, authorization"));
    }
    let mut request = get("/anything");
    *request.method_mut() = Method::OPTIONS;
    let answer = ask(&front, request).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn of_listed_origins_only_these_may_use_the_api() {
    let origins = Origins::Listed(vec!["https://ui.example".to_owned()]);
    let (front, echo) = front_with(Options { origins, ..Options::default() }, State::default());
    let listed = with_header(post("/v3/kv/range", r#"{"key":"YQ=="}"#), "origin", "https://ui.example");
    let answer = ask(&front, listed).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("access-control-allow-origin")),
        (200, Some("https://ui.example"))
    );

    echo.calls.lock().unwrap().clear();
    for origin in ["https://evil.example", "null", "https://ui.example.evil"] {
        let answer = ask(&front, with_header(post("/v3/kv/put", "{}"), "origin", origin)).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (403, None), "{origin}");
    }
    assert!(echo.calls.lock().unwrap().is_empty(), "a form's POST is sent without asking, so it must not arrive");

    let own = with_header(post("/v3/kv/range", r#"{"key":"YQ=="}"#), "origin", "http://here:2379");
    assert_eq!(ask(&front, own).await.status, 200);
    assert_eq!(ask(&front, post("/v3/kv/range", r#"{"key":"YQ=="}"#)).await.status, 200, "no page, no origin");
    let health = with_header(get("/health"), "origin", "https://evil.example");
    assert_eq!(ask(&front, health).await.status, 200, "only the API is closed to it");
}

#[tokio::test]
async fn a_foreign_host_name_is_refused_in_clear() {
    let hosts = vec!["etcd.example".to_owned(), "::1".to_owned()];
    let (front, _) = front_with(Options { hosts, ..Options::default() }, State::default());
    let named = |host: &str| ::http::Request::get("/version").header("host", host).body(Body::empty()).unwrap();
    for host in ["etcd.example", "etcd.example:2379", "[::1]:2379"] {
        assert_eq!(ask(&front, named(host)).await.status, 200, "{host}");
    }
    for host in ["evil.example:2379", "", "etcd.example.evil", "ETCD.example:1:2"] {
        let answer = ask(&front, named(host)).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.starts_with('\n') && answer.body.contains("--host-whitelist"), "{}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let mut under_tls = named("evil.example");
    under_tls.extensions_mut().insert(Tls::default());
    assert_eq!(ask(&front, under_tls).await.status, 200, "under TLS the name is in the certificate");
    let (front, _) = front_with(Options { hosts: vec!["*".to_owned()], ..Options::default() }, State::default());
    assert_eq!(ask(&front, named("evil.example")).await.status, 200);
}

#[tokio::test]
async fn a_user_by_certificate_is_told_that_json_does_not_know_it() {
    let options = Options { client_cert_auth: true, ..Options::default() };
    let (front, _) = front_with(options, State { auth: true, ..State::default() });
    let with_name = |path: &str, name: Option<&str>| {
        let mut request = post(path, r#"{"key":"YQ=="}"#);
        request.extensions_mut().insert(Tls { common_name: name.map(str::to_owned) });
        request
    };
    assert_eq!(ask(&front, with_name("/v3/kv/range", Some("alice"))).await.status, 400);
    assert_eq!(ask(&front, with_name("/v3beta/kv/range", Some("alice"))).await.status, 400);
    assert_eq!(ask(&front, with_name("/v3/kv/range", Some(""))).await.status, 200);
    assert_eq!(ask(&front, with_name("/v3/kv/range", None)).await.status, 200);
    assert_eq!(ask(&front, with_name("/nothing", Some("alice"))).await.status, 404);
}

#[tokio::test]
async fn unclean_paths_are_sent_to_clean_ones_of_this_host() {
    let (front, _) = front();
    for (path, clean) in [
        ("//version", "/version"),
        ("/v3", "/v3/"),
        ("/v3//kv/range?a=b", "/v3/kv/range?a=b"),
        ("/v3/kv/./x/../range", "/v3/kv/range"),
        ("/../../version/.", "/version"),
        ("//evil.example/%2e", "/evil.example/%2e"),
        ("/.//\\evil.example", "/%5Cevil.example"),
        ("/a//", "/a/"),
    ] {
        let answer = ask(&front, get(path)).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (307, Some(clean)), "{path}");
        assert!(answer.body.contains("Temporary Redirect"));
        assert_eq!(ask(&front, post(path, "{}")).await.body, "", "{path}");
    }
    assert_eq!(ask(&front, get("/version/")).await.status, 404);
}

fn from(peer: &str, host: &str) -> Request {
    let mut request = ::http::Request::get("/metrics").header("host", host).body(Body::empty()).unwrap();
    request.extensions_mut().insert(crate::listener::Peer { address: peer.parse().unwrap() });
    request
}

#[test]
fn only_this_machine_under_its_own_name_and_for_itself_is_local() {
    for host in ["127.0.0.1:2379", "localhost:2379", "localhost", "[::1]:2379", "[::1]"] {
        assert!(is_local(&from("127.0.0.1:9", host)), "{host}");
        assert!(is_local(&from("[::1]:9", host)) && is_local(&from("[::ffff:127.0.0.1]:9", host)), "{host}");
        assert!(!is_local(&from("10.0.0.2:9", host)) && !is_local(&from("127.0.0.2:9", host)), "{host}");
    }
    for host in ["evil.example:2379", "10.0.0.1:80", ""] {
        assert!(!is_local(&from("127.0.0.1:9", host)), "{host} is a rebound name, or a proxy's");
    }
    for field in ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"] {
        assert!(!is_local(&with_header(from("127.0.0.1:9", "localhost"), field, "x")), "{field}");
    }
}

#[tokio::test]
async fn who_does_what_is_told_on_metrics_ports_and_to_this_machine_alone() {
    let options = Options::default();
    let busy = prometheus::IntGauge::new("busy", "Names somebody.").unwrap();
    options.names.register(Box::new(busy)).unwrap();
    let (front, _) = front_with(options, State::default());
    let local = || from("127.0.0.1:9", "127.0.0.1:2379");
    for (request, is_told) in [
        (local(), true),
        (from("10.0.0.2:9", "127.0.0.1:2379"), false),
        (with_header(local(), "origin", "http://127.0.0.1:2379"), false),
        (with_header(local(), "x-forwarded-for", "10.0.0.2"), false),
    ] {
        let asked = format!("{:?}", request.headers());
        let answer = ask(&front, request).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, None), "{asked}");
        assert!(answer.body.contains("etcd_server_health_success"), "{}", answer.body);
        assert_eq!(answer.body.contains("busy 0"), is_told, "{asked}");
    }
    let far = collect(front.metrics(from("10.0.0.2:9", "etcd.example")).await).await;
    assert!(far.body.starts_with("# HELP busy") && far.body.contains("etcd_server_health_success"), "{}", far.body);
}
