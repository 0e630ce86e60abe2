use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};

use super::*;

#[tokio::test]
async fn health_names_the_first_thing_that_is_wrong() {
    let sick = |alarms: &[AlarmType], leader, linearizable: Result<(), Status>| State {
        alarms: alarms.to_vec(),
        leader,
        linearizable,
        ..State::default()
    };
    let timed_out = Err(Status::unavailable("etcdserver: request timed out"));
    let both = [AlarmType::Nospace, AlarmType::Corrupt];
    let cases = [
        (sick(&[], true, Ok(())), "", None),
        (sick(&both, true, Ok(())), "", Some("ALARM NOSPACE")),
        (sick(&both, true, Ok(())), "?exclude=NOSPACE", Some("ALARM CORRUPT")),
        (sick(&both, true, Ok(())), "?exclude=NOSPACE&exclude=&exclude=CORR%55PT", None),
        (sick(&[AlarmType::None], true, Ok(())), "", Some("ALARM UNKNOWN")),
        (sick(&[], false, timed_out.clone()), "", Some("RAFT NO LEADER")),
        (sick(&[], true, timed_out.clone()), "", Some("RANGE ERROR:etcdserver: request timed out")),
        (sick(&[], false, timed_out.clone()), "?serializable=true", None),
        (sick(&[], false, timed_out), "?serializable=1", Some("RAFT NO LEADER")),
    ];
    for (state, query, reason) in cases {
        let (front, _) = front_with(Options::default(), state.clone());
        let answer = ask(&front, get(&format!("/health{query}"))).await;
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        let page = encode_metrics(&state.metrics());
        match reason {
            None => {
                assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, r#"{"health":"true","reason":""}"#));
                assert!(page.contains("etcd_server_health_success 1\n"), "{page}");
            }
            Some(reason) => {
                let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
                assert_eq!((answer.status.as_u16(), &answer.body), (503, &body));
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
                assert!(page.contains("etcd_server_health_failures 1\n"), "{page}");
            }
        }
    }
}

#[tokio::test]
async fn a_learner_lives_and_is_healthy_but_not_ready() {
    let state = State { learner: true, alarms: vec![AlarmType::Nospace], ..State::default() };
    let (front, _) = front_with(Options::default(), state.clone());
    assert_eq!(ask(&front, get("/livez")).await.body, "ok\n");
    assert_eq!(ask(&front, get("/livez?verbose")).await.body, "[+]serializable_read ok\nok\n");
    let answer = ask(&front, get("/readyz")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[-]non_learner failed: not supported for learner\n\n"
    );
    assert_eq!(ask(&front, get("/readyz/data_corruption")).await.body, "ok\n");
    assert_eq!(ask(&front, get("/readyz/non_learner?exclude=non_learner")).await.status, 503);
    let answer = ask(&front, get("/readyz?exclude=non_learner&exclude=unheard_of&verbose=0")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n");
    for missing in ["/readyz/", "/readyz/nothing", "/livez/non_learner", "/readyzz", "/health/"] {
        assert_eq!(ask(&front, get(missing)).await.status, 404, "{missing}");
    }
    let page = encode_metrics(&state.metrics());
    assert!(page.contains("etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 0\n"), "{page}");
    let total = "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"livez\"} 2\n";
    assert!(page.contains(total), "{page}");
}

#[tokio::test]
async fn every_check_runs_and_says_why_it_failed() {
    let state = State {
        alarms: vec![AlarmType::Corrupt],
        linearizable: Err(Status::unavailable("etcdserver: request timed out")),
        ..State::default()
    };
    let (front, _) = front_with(Options::default(), state);
    assert_eq!(
        ask(&front, get("/readyz")).await.body,
        "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
         [-]linearizable_read failed: etcdserver: request timed out\n[+]non_learner ok\n\n"
    );
}

#[tokio::test]
async fn version_and_variables_are_printed_as_etcd_prints_them() {
    let (front, _) = front();
    let answer = ask(&front, get("/version")).await;
    assert_eq!(answer.body, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"unknown"}"#);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = ask(&front, get("/debug/vars")).await;
    assert_eq!(answer.body, "{\n\"file_descriptor_limit\": 7,\n\"raft.status\": {\"term\":2}\n}\n");
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    let (front, _) = front_with(Options::default(), State { leader: false, ..State::default() });
    assert!(ask(&front, get("/version")).await.body.contains(r#""etcdcluster":"not_decided""#));
    assert_eq!(ask(&front, get("/debug/vars")).await.status, 404, "a role without variables has no such page");
}

#[tokio::test]
async fn endpoints_take_get_alone() {
    let (front, _) = front();
    for path in ["/health", "/livez", "/readyz/non_learner", "/version", "/debug/vars"] {
        for method in [Method::POST, Method::HEAD] {
            let mut request = get(path);
            *request.method_mut() = method;
            let answer = ask(&front, request).await;
            assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some("GET")), "{path}");
            assert_eq!(answer.body, "Method Not Allowed\n");
        }
    }
    assert_eq!(ask(&front, post("/metrics", "")).await.status, 200, "metrics take anything");
}

#[tokio::test]
async fn a_metrics_port_has_metrics_and_health_and_no_cors_fields() {
    let (front, _) = front();
    for (path, status) in [
        ("/metrics", 200),
        ("/health", 200),
        ("/readyz", 200),
        ("/version", 404),
        ("/debug/vars", 404),
        ("/v3/kv/range", 404),
    ] {
        let answer = collect(front.metrics(get(path)).await).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (status, None), "{path}");
    }
}

#[tokio::test]
async fn the_metrics_page_is_in_gos_format() {
    let state = State::default();
    let sizes = HistogramOpts::new("etcd_size_bytes", "Two\nlines \\ one").buckets(vec![0.00001, 0.5, 1_048_576.0]);
    let sizes = Histogram::with_opts(sizes).unwrap();
    let calls = IntCounterVec::new(Opts::new("etcd_calls_total", "Calls."), &["path"]).unwrap();
    state.registry.register(Box::new(sizes.clone())).unwrap();
    state.registry.register(Box::new(calls.clone())).unwrap();
    sizes.observe(0.25);
    sizes.observe(4e6);
    calls.with_label_values(&["a\"b\\c\n"]).inc_by(1_234_567);
    let (front, _) = front_with(Options::default(), state);
    let answer = ask(&front, get("/metrics")).await;
    let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    assert_eq!(answer.header("content-type"), Some(content_type));
    let expected = r#"# HELP etcd_calls_total Calls.
# TYPE etcd_calls_total counter
etcd_calls_total{path="a\"b\\c\n"} 1.234567e+06
# HELP etcd_server_health_failures The total number of failed health checks
# TYPE etcd_server_health_failures counter
etcd_server_health_failures 0
# HELP etcd_server_health_success The total number of successful health checks
# TYPE etcd_server_health_success counter
etcd_server_health_success 0
# HELP etcd_size_bytes Two\nlines \\ one
# TYPE etcd_size_bytes histogram
etcd_size_bytes_bucket{le="1e-05"} 0
etcd_size_bytes_bucket{le="0.5"} 1
etcd_size_bytes_bucket{le="1.048576e+06"} 1
etcd_size_bytes_bucket{le="+Inf"} 2
etcd_size_bytes_sum 4.00000025e+06
etcd_size_bytes_count 2
"#;
    assert_eq!(answer.body, expected);
}
