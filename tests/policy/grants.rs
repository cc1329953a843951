//! `publish` and `subscribe`: `allow` and `deny`.

use crate::*;

/// Who breaks a rule is not disconnected.
fn config(publish: Value, subscribe: Value) -> Value {
    json!({ "on_unauthorized": "drop", "publish": publish, "subscribe": subscribe })
}

/// Which of these topics a client may publish.
#[track_caller]
fn publishes(grants: Value, yes: &[&str], no: &[&str]) {
    both(config(grants, json!({})), |t| {
        logs_in(t, connect("c"));
        for (topics, expected) in [(yes, true), (no, false)] {
            for topic in topics {
                assert_eq!(may_publish(t, topic), expected, "{}: {topic}", t.name);
            }
        }
    });
}

/// Which of these filters a client may subscribe to.
#[track_caller]
fn subscribes_to(grants: Value, yes: &[&str], no: &[&str]) {
    both(config(json!({}), grants), |t| {
        logs_in(t, connect("c"));
        for (filters, code) in [(yes, 1), (no, REFUSED)] {
            for filter in filters {
                assert_eq!(subscribes(t, &[filter]), [code], "{}: {filter}", t.name);
            }
        }
    });
}

#[test]
fn without_grants_all_is_permitted() {
    publishes(json!({}), &["a", "a/b", "$x/y"], &[]);
    subscribes_to(json!({}), &["a", "#", "+/+", "$SYS/#"], &[]);
}

#[test]
fn with_an_allow_nothing_else_is() {
    publishes(
        json!({ "allow": ["a/b", "c/+", "d/#", "e/#/f"] }),
        &["a/b", "c/1", "d", "d/1/2", "e/f", "e/1/2/f"],
        &["a", "a/b/c", "c", "c/1/2", "dd", "e", "e/1", "f"],
    );
    publishes(json!({ "allow": [] }), &[], &["a"]);
    subscribes_to(json!({ "allow": [] }), &[], &["a", "#"]);
}

#[test]
fn what_a_deny_matches_is_refused_whatever_an_allow_does() {
    publishes(
        json!({ "allow": ["a/#"], "deny": ["a/secret/#", "+/x"] }),
        &["a/b"],
        &["a/secret", "a/secret/1", "a/x"],
    );
    publishes(json!({ "deny": ["a/secret"] }), &["a", "b"], &["a/secret"]);
    subscribes_to(
        json!({ "allow": ["a/#"], "deny": ["a/secret"] }),
        &["a/b", "a/b/#"],
        &["a/secret", "a/#", "a/+"],
    );
}

#[test]
fn a_subscription_is_permitted_when_all_of_it_is() {
    subscribes_to(
        json!({ "allow": ["devices/+/state", "news/#"] }),
        &["devices/1/state", "devices/+/state", "news", "news/#", "news/+/x"],
        &["devices/#", "devices/+/+", "+/1/state", "#", "news2"],
    );
    subscribes_to(
        json!({ "deny": ["a/secret", "b/#"] }),
        &["a/public", "c/#", "a/+/x"],
        &["a/secret", "a/+", "+/secret", "#", "b", "b/1", "+/1", "a/#"],
    );
}

#[test]
fn dollar_topics_are_not_allowed_but_denied_by_wildcards() {
    publishes(json!({ "allow": ["#"] }), &["a"], &["$a/b", "$SYS"]);
    publishes(json!({ "allow": ["+/b"] }), &["a/b"], &["$a/b"]);
    publishes(json!({ "allow": ["$a/#"] }), &["$a/b", "$a"], &["a/b"]);
    publishes(json!({ "deny": ["+/b"] }), &["$a/c"], &["$a/b", "a/b"]);
    subscribes_to(json!({ "allow": ["#"] }), &["#", "a"], &["$a/#", "$a/b"]);
    subscribes_to(json!({ "deny": ["#"] }), &[], &["$a/b", "a"]);
}

/// What stands for the client's own.
#[test]
fn each_variable() {
    let client = Facts { port: 1, ..with_certificate(["O=acme,CN=cn-1", "san.example", ""]) };
    for (variable, value) in [
        ("{client_id}", "id-1"),
        ("{username}", "u-1"),
        ("{vhost}", "v-1"),
        ("{tenant}", "t-1"),
        ("{cert_cn}", "cn-1"),
        ("{cert_dn}", "O=acme,CN=cn-1"),
        ("{cert_san}", "san.example"),
    ] {
        let mut config = config(
            json!({ "allow": [format!("a/{variable}/#"), format!("dev-{variable}-x")] }),
            json!({ "deny": [format!("b/{variable}")] }),
        );
        config["tenants"] = json!([{ "name": "t-1", "match": { "port": 1 } }]);
        // So that a dot is no boundary between levels.
        config["topic_mapping"] = "reversible".into();
        both_of(&client, config, |t| {
            logs_in(t, connect_with(0xc2, 0, &["id-1", "v-1:u-1", "p"]));
            assert!(may_publish(t, &format!("a/{value}/b")), "{variable}");
            assert!(may_publish(t, &format!("dev-{value}-x")), "{variable}");
            for topic in
                ["a/other/b".to_owned(), format!("a/{value}x"), format!("dev-{value}"), variable.into()]
            {
                assert!(!may_publish(t, &topic), "{variable}: {topic}");
            }
            let denied = format!("b/{value}");
            assert_eq!(subscribes(t, &[&denied, "b/other", "b/+"]), [REFUSED, 1, REFUSED], "{variable}");
        });
    }
}

/// The first URI, where there is no DNS name.
#[test]
fn an_alternative_name_may_be_a_uri() {
    let config = config(json!({ "allow": ["{cert_san}/x"] }), json!({}));
    both_of(&with_certificate(["", "", "urn:acme:1"]), config, |t| {
        logs_in(t, connect("c"));
        assert!(may_publish(t, "urn:acme:1/x"));
    });
}

/// A value that would not be one level gets nobody anywhere, and around no denial.
#[test]
fn what_a_client_is_called_gets_it_nothing() {
    let allowed = config(json!({ "allow": ["a/{client_id}/x"] }), json!({}));
    for (id, topics) in [
        ("b/c", &["a/b/c/x", "a/b/x"][..]),
        ("b.c", &["a/b.c/x", "a/b/c/x"]),
        ("b*", &["a/b*/x"]),
        ("*", &["a/*/x", "a/b/x"]),
        ("+", &["a/b/x"]),
        ("#", &["a/b/x", "a/x"]),
    ] {
        both(allowed.clone(), |t| {
            logs_in(t, connect(id));
            for topic in topics {
                assert!(!may_publish(t, topic), "{}: {id}: {topic}", t.name);
            }
        });
        let denied = config(json!({ "deny": ["a/{client_id}/x"] }), json!({ "deny": ["a/{client_id}/x"] }));
        both(denied, |t| {
            logs_in(t, connect(id));
            assert!(!may_publish(t, "a/anything/x"), "{}: {id}", t.name);
            assert!(may_publish(t, "a/anything/y"), "{}: {id}", t.name);
            assert_eq!(subscribes(t, &["a/anything/x", "a/anything/y"]), [REFUSED, 1]);
        });
    }
}

/// So has one that is empty or not known.
#[test]
fn a_value_that_there_is_not() {
    for variable in ["{tenant}", "{cert_cn}", "{cert_dn}", "{cert_san}"] {
        both(config(json!({ "allow": [format!("a/{variable}/x"), "b"] }), json!({})), |t| {
            logs_in(t, connect("c"));
            assert!(!may_publish(t, "a//x") && !may_publish(t, "a/b/x") && may_publish(t, "b"), "{variable}");
        });
        both(config(json!({ "deny": [format!("a/{variable}/x")] }), json!({})), |t| {
            logs_in(t, connect("c"));
            assert!(!may_publish(t, "a//x") && !may_publish(t, "a/b/x") && may_publish(t, "b"), "{variable}");
        });
    }
}

/// What `topic_mapping` keeps is a part of a level.
#[test]
fn a_dot_is_a_boundary_only_where_the_mapping_makes_it_one() {
    let mut kept = config(json!({ "allow": ["a/{client_id}/x", "v1.0/#"] }), json!({}));
    kept["topic_mapping"] = "reversible".into();
    both(kept, |t| {
        logs_in(t, connect("b.c"));
        assert!(may_publish(t, "a/b.c/x") && may_publish(t, "v1.0/z"));
        assert!(!may_publish(t, "a/b/c/x") && !may_publish(t, "v1/0/z"));
    });
    publishes(json!({ "allow": ["a/b"] }), &["a/b", "a.b"], &["a.c"]);
    publishes(json!({ "deny": ["a/b"] }), &["a/c"], &["a/b", "a.b"]);
    subscribes_to(json!({ "deny": ["a/b"] }), &[], &["a.b", "a.+", "a/+"]);
}

/// Its topics are those behind the group's name.
#[test]
fn of_a_shared_subscription_the_filter_counts() {
    subscribes_to(
        json!({ "allow": ["a/#"] }),
        &["$share/g/a/b", "$share/g/a/#"],
        &["$share/g/b", "$share/a/b/c", "$share/g/#"],
    );
}

/// Each entry of a SUBSCRIBE is judged by itself, and who asks too much is not disconnected.
#[test]
fn a_refused_filter_is_0x80_among_others() {
    for on_unauthorized in ["disconnect", "drop"] {
        let config = json!({ "on_unauthorized": on_unauthorized, "subscribe": { "allow": ["a/#"] } });
        both(config, |t| {
            logs_in(t, connect("c"));
            assert_eq!(
                subscribes_at(t, &[("b", 0), ("a/1", 0), ("#", 2), ("a/2", 1), ("a/+x", 0)]),
                [REFUSED, 0, REFUSED, 1, REFUSED]
            );
            let counted =
                ["denied.subscribe", "denied.by.grant", "denied.by.filter"].map(|name| t.counter(name));
            assert_eq!(counted, [3, 2, 1]);
            logged(t, "refused a filter: no allow entry matches");
            assert_eq!(subscribes(t, &["b"]), [REFUSED]);
        });
    }
}

#[test]
fn the_reason_is_logged() {
    both(config(json!({ "allow": ["a/#"], "deny": ["a/x"] }), json!({ "deny": ["a"] })), |t| {
        logs_in(t, connect("c"));
        may_publish(t, "b");
        logged(t, "dropped a PUBLISH: no allow entry matches");
        may_publish(t, "a/x");
        logged(t, "dropped a PUBLISH: a deny entry matches");
        subscribes(t, &["a"]);
        logged(t, "refused a filter: a deny entry matches");
        assert_eq!(t.counter("denied.by.grant"), 3);
    });
}

/// Nor can a client make anybody count for long.
#[test]
fn a_filter_that_takes_too_long_to_judge_is_refused() {
    let deny: Vec<_> = (0..1000).map(|number| format!("a/{number}/+/x/#")).collect();
    both(config(json!({}), json!({ "deny": deny })), |t| {
        logs_in(t, connect("c"));
        // One filter is judged, however long it takes; of many in a packet, some.
        let long = ["#/b"; 60].join("/");
        let codes = subscribes(t, &[long.as_str(); 40]);
        assert!(codes.iter().all(|code| *code == REFUSED), "{codes:?}");
        assert_eq!(subscribes(t, &[&["+/a"; 60].join("/")]), [1]);
        logged(t, "refused a filter: its filter has too many wildcards");
    });
}

/// Each is judged, but nobody else has to wait for all of them.
#[test]
fn who_asks_what_takes_long_to_judge_waits() {
    let deny: Vec<_> = (0..10_000).map(|number| format!("{number}/+/x")).collect();
    both(config(json!({}), json!({ "deny": deny })), |t| {
        t.pieces_of(1 << 16);
        logs_in(t, connect("c"));
        t.client(subscribe(9, &[("+/x", 1)]).repeat(200));
        t.agree();
        let mut answered = t.take_heard().len() / 5;
        assert!((3..8).contains(&answered), "{answered}");
        for _ in 0..100 {
            t.advance(100);
            t.agree();
            answered += t.take_heard().len() / 5;
        }
        assert_eq!(answered, 200);
        // What is to the point is not held up.
        t.client(subscribe(9, &[("1/b/x", 1)]));
        t.agree();
        t.hears(suback(9, &[REFUSED]));
    });
}

/// Once a packet has used up what there is for it, what is left of it is refused at once.
#[test]
fn many_filters_before_many_entries_are_refused_at_little_cost() {
    let deny: Vec<_> = (0..10_000).map(|number| format!("{number}/+/y")).collect();
    both(config(json!({}), json!({ "deny": deny })), |t| {
        t.pieces_of(1 << 16);
        logs_in(t, connect("c"));
        t.client(subscribe(9, &[("+/x", 1); 4096]));
        t.agree();
        let heard = t.take_heard();
        let codes = &heard[5..];
        let permitted = codes.iter().filter(|code| **code == 1).count();
        assert!(codes.len() == 4096 && (2..5).contains(&permitted), "{permitted} of {}", codes.len());
        assert!(codes[permitted..].iter().all(|code| *code == REFUSED), "the first ones");
        logged(t, "refused a filter: its filter has too many wildcards");
    });
}

#[test]
fn what_is_no_grant() {
    for (entry, problem) in [("a+", "wildcard"), ("", "empty"), ("{clientid}", "braces"), ("a/{", "braces")] {
        for key in ["publish", "subscribe"] {
            for list in ["allow", "deny"] {
                let error = error_of(json!({ key: { list: ["fine/#/fine", entry] } }));
                assert_eq!(error.path(), format!("{key}.{list}[1]"));
                assert!(error.problem().contains(problem), "{error}");
            }
        }
    }
    assert!(error_of(json!({ "publish": { "forbid": [] } })).path().starts_with("publish"));
}
