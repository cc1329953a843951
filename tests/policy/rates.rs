//! Rates: who is ahead of one is not read from until it is not.

use crate::*;

/// So many PUBLISHes of 100 bytes, with their number in it.
fn burst(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers.flat_map(|number| publish(0, 0, "t", format!("{number:095}").as_bytes())).collect()
}

/// What has come through of it.
#[derive(Default)]
struct Arrivals {
    told: Vec<AMQPFrame>,
    count: u32,
}

impl Arrivals {
    /// How many since the last time; all are there, in their order.
    #[track_caller]
    fn arrive(&mut self, t: &mut Talk) -> u32 {
        self.told.extend(t.agree());
        let messages = publishes(&self.told);
        for (number, (_, payload)) in messages.iter().enumerate() {
            assert_eq!(String::from_utf8_lossy(payload), format!("{number:095}"), "{}", t.name);
        }
        let before = std::mem::replace(&mut self.count, messages.len() as u32);
        self.count - before
    }
}

/// Logged in, and has been silent for long enough to have all of a second's worth.
fn ready(t: &mut Talk) {
    logs_in(t, connect_as("u", "p"));
    t.advance(20_000);
    t.agree();
}

#[track_caller]
fn has_a_second_s_worth_and_then_ten_a_second(key: &str, rate: u32) {
    both(json!({ key: rate, "heartbeat": 0 }), |t| {
        ready(t);
        let mut arrivals = Arrivals::default();
        t.client(burst(0..50));
        let at_once = arrivals.arrive(t);
        // One more, which is paid for behind it; and what workers share they take in portions.
        assert!((10..=12).contains(&at_once), "{} {key}: {at_once}", t.name);
        for seconds in 1..=3 {
            t.advance(1_000);
            arrivals.arrive(t);
            let all = arrivals.count;
            assert!((9 + 10 * seconds..=12 + 10 * seconds).contains(&all), "{} {key}: {all}", t.name);
        }
        t.advance(1_500);
        arrivals.arrive(t);
        assert_eq!(arrivals.count, 50, "{} {key}: nothing is lost", t.name);
        t.stays_open();
    });
}

#[test]
fn each_rate() {
    has_a_second_s_worth_and_then_ten_a_second("client_message_rate", 10);
    has_a_second_s_worth_and_then_ten_a_second("client_byte_rate", 1_000);
    has_a_second_s_worth_and_then_ten_a_second("message_rate", 10);
    has_a_second_s_worth_and_then_ten_a_second("byte_rate", 1_000);
}

/// Each of these clients has sent more than it may.
fn two_clients(key: &str, rate: u32, talk: impl Fn(&mut Talk, [u32; 2])) {
    both(json!({ key: rate, "heartbeat": 0 }), |t| {
        ready(t);
        let mut other = another(t, &Facts::default());
        ready(t);
        let mut all = [0; 2];
        for count in &mut all {
            t.client(burst(0..50));
            *count = Arrivals::default().arrive(t);
            swap(t, &mut other);
        }
        talk(t, all);
    });
}

#[test]
fn a_tenant_s_clients_share_its_rates_and_each_has_its_own() {
    for (key, rate) in [("message_rate", 10), ("byte_rate", 1_000)] {
        two_clients(key, rate, |t, [one, two]| {
            assert!((10..=13).contains(&(one + two)), "{} {key}: {one} {two}", t.name);
        });
    }
    for (key, rate) in [("client_message_rate", 10), ("client_byte_rate", 1_000)] {
        two_clients(key, rate, |t, [one, two]| {
            assert!((10..=11).contains(&one) && (10..=11).contains(&two), "{} {key}: {one} {two}", t.name);
        });
    }
}

#[test]
fn over_all_workers() {
    for (key, rate) in [("message_rate", 10), ("byte_rate", 1_000)] {
        two_workers(json!({ key: rate, "heartbeat": 0 }), |one, two| {
            ready(one);
            ready(two);
            let [mut of_one, mut of_two] = [(); 2].map(|()| Arrivals::default());
            one.client(burst(0..100));
            two.client(burst(0..100));
            let at_once = of_one.arrive(one) + of_two.arrive(two);
            assert!((10..=13).contains(&at_once), "{} {key}: {at_once}", one.name);
            let mut later = 0;
            for _ in 0..30 {
                one.advance(100);
                two.advance(100);
                later += of_one.arrive(one) + of_two.arrive(two);
            }
            assert!((28..=32).contains(&later), "{} {key}: {later}", one.name);
        });
    }
}

/// Whatever packets they are.
#[test]
fn bytes_are_those_of_all_packets() {
    for key in ["client_byte_rate", "byte_rate"] {
        both(json!({ key: 100 }), |t| {
            ready(t);
            t.client(PINGREQ.repeat(150));
            t.agree();
            let heard = t.take_heard().len() / PINGRESP.len();
            assert!((50..=52).contains(&heard), "{} {key}: {heard}", t.name);
            t.advance(1_000);
            t.agree();
            let heard = t.take_heard().len() / PINGRESP.len();
            assert!((45..=55).contains(&heard), "{} {key}: {heard}", t.name);
        });
    }
}

/// PUBLISH and nothing else is a message.
#[test]
fn other_packets_are_no_messages() {
    for key in ["client_message_rate", "message_rate"] {
        both(json!({ key: 1 }), |t| {
            ready(t);
            t.client(PINGREQ.repeat(150));
            t.agree();
            t.hears(PINGRESP.repeat(150));
        });
    }
}

/// A refused one is one, or a rate would not hold who is refused.
#[test]
fn a_dropped_publish_counts() {
    both(json!({ "client_message_rate": 10, "on_unauthorized": "drop", "publish": { "allow": [] } }), |t| {
        ready(t);
        t.client(burst(0..50));
        assert!((10..=11).contains(&t.counter("denied.publish")), "{}", t.name);
    });
}

/// A payload is paid for as it comes; what is larger than a second's worth takes its time.
#[test]
fn a_large_message_is_paid_for_behind_it() {
    both(json!({ "client_byte_rate": 1_000 }), |t| {
        ready(t);
        t.client([publish(0, 0, "t", &[7; 3_000]), PINGREQ.to_vec()].concat());
        t.advance(1_500);
        t.agree();
        t.hears_nothing();
        t.advance(800);
        t.agree();
        t.hears(PINGRESP);
    });
}

/// A tenant at its limits is no other's concern, on the same worker.
#[test]
fn one_tenant_does_not_slow_another() {
    let slow = json!({ "name": "slow", "match": { "port": 1 }, "message_rate": 1, "byte_rate": 100, "max_inflight": 1 });
    for other in [
        json!({ "name": "other", "match": { "port": 2 } }),
        json!({ "name": "other", "match": { "port": 2 }, "message_rate": 1_000 }),
    ] {
        both(json!({ "heartbeat": 0, "tenants": [slow, other] }), |t| {
            another(t, &Facts { port: 1, ..Facts::default() });
            ready(t);
            t.client(burst(0..500));
            let mut of_slow = Arrivals::default();
            assert!(of_slow.arrive(t) <= 2, "{}", t.name);
            let mut slow = another(t, &Facts { port: 2, ..Facts::default() });
            ready(t);
            let mut arrivals = Arrivals::default();
            for from in [0, 300] {
                t.client(burst(from..from + 300));
                assert_eq!(arrivals.arrive(t), 300, "{}", t.name);
                t.advance(400);
            }
            swap(t, &mut slow);
            t.advance(100);
            of_slow.arrive(t);
            assert!((18..=25).contains(&of_slow.count), "{}: about one a second: {}", t.name, of_slow.count);
        });
    }
}

/// The top level's rates are those of each tenant that does not give its own, and of all without one.
#[test]
fn each_tenant_has_its_own() {
    for (key, rate) in [("message_rate", 10), ("byte_rate", 1_000)] {
        let tenant = |port: u16| json!({ "name": format!("t-{port}"), "match": { "port": port } });
        both(json!({ key: rate, "heartbeat": 0, "tenants": [tenant(1), tenant(2)] }), |t| {
            for port in [1, 2, 3] {
                another(t, &Facts { port, ..Facts::default() });
                ready(t);
                t.client(burst(0..50));
                let at_once = Arrivals::default().arrive(t);
                assert!((10..=12).contains(&at_once), "{} {key}: {at_once}", t.name);
            }
            another(t, &Facts { port: 4, ..Facts::default() });
            logs_in(t, connect_as("u", "p"));
            t.client(burst(0..50));
            assert!(Arrivals::default().arrive(t) <= 1, "{} {key}: with the third", t.name);
        });
    }
}

/// A clock that is set back by a day does not hold anybody for a day.
#[test]
fn the_wall_clock_may_be_set() {
    both(json!({ "message_rate": 10, "heartbeat": 0 }), |t| {
        ready(t);
        let mut arrivals = Arrivals::default();
        t.client(burst(0..50));
        arrivals.arrive(t);
        for seconds in [-86_400, 86_400] {
            if let Some(host) = t.subject.host() {
                host.step_wall_clock(seconds);
            }
            let before = arrivals.count;
            t.advance(2_000);
            arrivals.arrive(t);
            assert!(arrivals.count >= before + 15, "{}: {before} {}", t.name, arrivals.count);
        }
    });
}
