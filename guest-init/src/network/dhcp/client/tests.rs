use super::*;
use crate::network::dhcp::backoff::CONFIRMATIONS;
use crate::network::dhcp::lease::Terms;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const START: Duration = Duration::from_secs(1000);

fn identity() -> Identity {
    Identity {
        mac: MAC,
        hostname: "box".to_owned(),
    }
}

fn client(known: Known) -> Client {
    Client::new(identity(), known, 42, START)
}

/// Returns the answer of a server to the client's last message: a lease of 120 s.
fn reply(client: &Client, kind: Kind, server: Ipv4Addr) -> Message {
    let mut message = Message::request(kind, client.xid, MAC);
    message.yours = ADDRESS;
    put_address(&mut message, option::SERVER, server);
    let options = &mut message.options;
    options.insert(option::SUBNET_MASK, vec![255, 255, 255, 0]);
    options.insert(option::LEASE_TIME, vec![0, 0, 0, 120]);
    message
}

fn lease(obtained: u64) -> Lease {
    let message = reply(&client(Known::Nothing), Kind::Ack, SERVER);
    Lease::from_message(&message, Duration::from_secs(obtained)).unwrap()
}

/// Advances the clock to the deadline and returns it.
fn expire(client: &mut Client) -> (Duration, Vec<Action>) {
    let now = client.deadline().unwrap();
    (now, client.timer(now))
}

#[track_caller]
fn sent(actions: &[Action]) -> (&Message, Destination) {
    match actions {
        [Action::Send(message, destination)] => (message, *destination),
        other => panic!("no single message: {other:?}"),
    }
}

#[test]
fn an_address_is_got_by_discover_offer_request_ack() {
    let mut client = client(Known::Nothing);
    let actions = client.timer(START);
    let (discover, destination) = sent(&actions);
    assert_eq!(
        (discover.kind, destination),
        (Kind::Discover, Destination::Unconfigured)
    );
    assert_eq!(discover.options[&option::HOST_NAME], b"box");
    assert_eq!(discover.options[&option::CLIENT_ID], [1, 2, 0, 0, 0, 0, 1]);
    assert_eq!(client.listening(), Listening::Packets);

    let now = START + Duration::from_millis(10);
    let actions = client.received(&reply(&client.clone(), Kind::Offer, SERVER), now);
    let (request, _) = sent(&actions);
    assert_eq!((request.kind, request.xid), (Kind::Request, discover.xid));
    assert_eq!(request.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(request.address(option::SERVER), Some(SERVER));

    let actions = client.received(&reply(&client.clone(), Kind::Ack, SERVER), now);
    let [
        Action::Configure {
            lease,
            previous: None,
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!((lease.address, lease.prefix), (ADDRESS, 24));
    assert_eq!(client.listening(), Listening::No);
    assert_eq!(client.deadline(), Some(START + Duration::from_secs(60)));
}

#[test]
fn discover_is_sent_again_steadily_and_then_after_longer_and_longer_waits() {
    let mut client = client(Known::Nothing);
    let first = sent(&client.timer(START)).0.xid;
    assert_eq!(client.timer(START), [], "not before its time");
    let mut last = START;
    for seconds in [1, 1, 1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 64] {
        let (now, actions) = expire(&mut client);
        let waited = (now - last).as_secs_f64() / f64::from(seconds);
        assert!((0.87..1.13).contains(&waited), "{seconds}: {waited}");
        let (message, _) = sent(&actions);
        assert_eq!((message.kind, message.xid), (Kind::Discover, first));
        assert_eq!(u64::from(message.secs), (now - START).as_secs());
        last = now;
    }
}

#[test]
fn other_peoples_messages_are_ignored() {
    let mut client = client(Known::Nothing);
    client.timer(START);
    let good = reply(&client, Kind::Offer, SERVER);
    let mut no_server = good.clone();
    no_server.options.remove(&option::SERVER);
    for (what, message) in [
        (
            "xid",
            Message {
                xid: good.xid ^ 1,
                ..good.clone()
            },
        ),
        (
            "mac",
            Message {
                mac: [9; 6],
                ..good.clone()
            },
        ),
        ("no offer", reply(&client, Kind::Ack, SERVER)),
        (
            "no address",
            Message {
                yours: Ipv4Addr::UNSPECIFIED,
                ..good.clone()
            },
        ),
        ("no server", no_server),
    ] {
        assert_eq!(client.received(&message, START), [], "{what}");
    }
    sent(&client.received(&good, START));
    for kind in [Kind::Ack, Kind::Nak] {
        let message = reply(&client, kind, OTHER);
        assert_eq!(client.received(&message, START), [], "another server");
    }
}

#[test]
fn a_request_without_answer_leads_to_another_search() {
    let mut client = client(Known::Nothing);
    client.timer(START);
    let xid = client.xid;
    client.received(&reply(&client.clone(), Kind::Offer, SERVER), START);
    for _ in 1..REQUESTS {
        assert_eq!(sent(&expire(&mut client).1).0.kind, Kind::Request);
    }
    assert_eq!(expire(&mut client).1, []);
    let (_, actions) = expire(&mut client);
    let (discover, _) = sent(&actions);
    assert_eq!(discover.kind, Kind::Discover);
    assert_ne!(discover.xid, xid);
}

#[test]
fn a_known_address_is_asked_for_first() {
    for (known, previous) in [
        (Known::Address(ADDRESS), None),
        (Known::Remembered(lease(990)), Some(lease(990))),
    ] {
        let mut client = client(known);
        assert_eq!(client.listening(), Listening::Packets);
        let actions = client.timer(START);
        let (request, destination) = sent(&actions);
        assert_eq!(
            (request.kind, destination),
            (Kind::Request, Destination::Unconfigured)
        );
        assert_eq!(request.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
        assert_eq!(
            request.address(option::SERVER),
            None,
            "as RFC 2131, 4.3.2 has it"
        );
        assert!(request.client.is_unspecified());
        let actions = client.received(&reply(&client.clone(), Kind::Ack, OTHER), START);
        let [
            Action::Configure {
                lease,
                previous: replaced,
            },
        ] = &actions[..]
        else {
            panic!("{actions:?}");
        };
        assert_eq!((lease.server, lease.obtained), (OTHER, 1000));
        assert_eq!(replaced, &previous);
        assert_eq!(client.deadline(), Some(START + Duration::from_secs(60)));
    }
}

#[test]
fn an_address_nobody_confirms_is_given_up() {
    let mut silent = client(Known::Address(ADDRESS));
    for _ in 0..CONFIRMATIONS {
        assert_eq!(sent(&expire(&mut silent).1).0.kind, Kind::Request);
    }
    let (now, actions) = expire(&mut silent);
    assert_eq!(sent(&actions).0.kind, Kind::Discover);
    let waited = now - START;
    // Longer than the forwarding delay of a bridge with STP.
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(6));

    let mut refused = client(Known::Address(ADDRESS));
    refused.timer(START);
    assert_eq!(
        refused.received(&reply(&refused.clone(), Kind::Nak, SERVER), START),
        [],
        "there is nothing to take back"
    );
    assert_eq!(sent(&refused.timer(START)).0.kind, Kind::Discover);
}

#[test]
fn a_remembered_lease_that_is_refused_is_withdrawn_and_another_got() {
    let mut client = client(Known::Remembered(lease(990)));
    client.timer(START);
    let actions = client.received(&reply(&client.clone(), Kind::Nak, SERVER), START);
    assert_eq!(actions, [Action::Deconfigure(lease(990))]);
    assert_eq!(sent(&client.timer(START)).0.kind, Kind::Discover);
    sent(&client.received(&reply(&client.clone(), Kind::Offer, OTHER), START));
    let actions = client.received(&reply(&client.clone(), Kind::Ack, OTHER), START);
    assert!(
        matches!(&actions[..], [Action::Configure { previous: None, .. }]),
        "{actions:?}"
    );
}

#[test]
fn a_remembered_lease_nobody_confirms_is_kept_and_renewed_in_time() {
    let mut client = client(Known::Remembered(lease(990)));
    for _ in 0..CONFIRMATIONS {
        assert_eq!(sent(&expire(&mut client).1).1, Destination::Unconfigured);
    }
    assert_eq!(expire(&mut client).1, [], "it is in use already");
    assert_eq!(client.listening(), Listening::No);
    let (now, actions) = expire(&mut client);
    assert_eq!(now, Duration::from_secs(990 + 60));
    assert_eq!(sent(&actions).1, Destination::Server(SERVER));
}

#[test]
fn a_remembered_lease_that_expires_unconfirmed_is_lost() {
    let mut client = client(Known::Remembered(lease(1000 - 118)));
    for _ in 0..CONFIRMATIONS {
        sent(&expire(&mut client).1);
    }
    let (now, actions) = expire(&mut client);
    assert_eq!(actions, []);
    assert!(now < START + Duration::from_secs(6));
    let actions = client.timer(now);
    assert_eq!(actions, [Action::Deconfigure(lease(1000 - 118))]);
    assert_eq!(sent(&expire(&mut client).1).0.kind, Kind::Discover);
}

#[test]
fn refusal_after_refusal_slows_us_down() {
    let mut client = client(Known::Nothing);
    let mut delays = Vec::new();
    let mut now = START;
    for _ in 0..4 {
        sent(&client.timer(now));
        client.received(&reply(&client.clone(), Kind::Offer, SERVER), now);
        client.received(&reply(&client.clone(), Kind::Nak, SERVER), now);
        let next = client.deadline().unwrap();
        delays.push((next - now).as_secs_f64().round() as u64);
        now = next;
    }
    assert_eq!(delays, [0, 1, 2, 4]);
}

#[test]
fn a_lease_is_renewed_by_its_server() {
    let mut client = client(Known::Confirmed(lease(1000)));
    let (now, actions) = expire(&mut client);
    assert_eq!(now, START + Duration::from_secs(60));
    let (request, destination) = sent(&actions);
    assert_eq!(
        (request.kind, destination),
        (Kind::Request, Destination::Server(SERVER))
    );
    assert_eq!(request.client, ADDRESS);
    for code in [option::REQUESTED_ADDRESS, option::SERVER] {
        assert_eq!(request.address(code), None, "as RFC 2131, 4.3.2 has it");
    }
    assert_eq!(client.listening(), Listening::Datagrams);
    let actions = client.received(&reply(&client.clone(), Kind::Ack, SERVER), now);
    let renewed = lease(1060);
    let previous = Some(lease(1000));
    assert_eq!(
        actions,
        [Action::Configure {
            lease: renewed,
            previous
        }]
    );
    assert_eq!(client.deadline(), Some(START + Duration::from_secs(120)));
}

#[test]
fn a_lease_nobody_renews_is_rebound_and_lost() {
    let terms = Terms {
        renewal: 1000,
        rebinding: 1400,
        expiry: 1600,
    };
    let lease = Lease {
        terms: Some(terms),
        ..lease(1000)
    };
    let mut client = client(Known::Confirmed(lease.clone()));
    let mut steps = Vec::new();
    loop {
        let (now, actions) = expire(&mut client);
        let after = (now - START).as_secs();
        match &actions[..] {
            [Action::Send(_, destination)] => steps.push((after, *destination)),
            actions => {
                assert_eq!(actions, [Action::Deconfigure(lease)]);
                assert_eq!(after, 1600);
                break;
            }
        }
    }
    let server = Destination::Server(SERVER);
    let all = Destination::Broadcast;
    assert_eq!(
        steps,
        [
            (1000, server),
            (1200, server),
            (1300, server),
            (1360, server),
            (1400, all),
            (1500, all),
            (1560, all)
        ]
    );
    assert_eq!(client.listening(), Listening::Packets);
    assert_eq!(sent(&expire(&mut client).1).0.kind, Kind::Discover);
}

#[test]
fn a_refused_renewal_loses_the_lease() {
    let mut client = client(Known::Confirmed(lease(1000)));
    let (now, _) = expire(&mut client);
    let actions = client.received(&reply(&client.clone(), Kind::Nak, SERVER), now);
    assert_eq!(actions, [Action::Deconfigure(lease(1000))]);
    assert_eq!(sent(&client.timer(now)).0.kind, Kind::Discover);
}

#[test]
fn leases_found_late_are_dealt_with_at_once() {
    for (obtained, expected) in [
        (1000 - 61, Some(Destination::Server(SERVER))),
        (1000 - 106, Some(Destination::Broadcast)),
        (1000 - 121, None),
    ] {
        let mut client = client(Known::Confirmed(lease(obtained)));
        match (&client.timer(START)[..], expected) {
            ([Action::Send(_, destination)], Some(expected)) => assert_eq!(*destination, expected),
            ([Action::Deconfigure(_)], None) => {}
            (actions, _) => panic!("{obtained}: {actions:?}"),
        }
    }
}

#[test]
fn a_lease_for_ever_is_left_alone() {
    let lease = Lease {
        terms: None,
        ..lease(1000)
    };
    let client = client(Known::Confirmed(lease));
    assert_eq!(client.deadline(), None);
}
