use super::*;

#[test]
fn written_forms_are_inverse() {
    for text in [
        "dhcp,source=default",
        "dhcp,source=lab,mac=52:54:00:12:34:56",
        "address=192.0.2.7/24,address=2001:db8::7/64,route=0.0.0.0/0%192.0.2.1,source=default",
        "dhcp,source=default,filter=clean-traffic,filter.ip=192.0.2.7",
        "source=default",
        "dhcp",
        "dhcp,user,mac=52:54:00:12:34:56",
        "dhcp,bridge=br0",
        "address=192.0.2.7/24%192.0.2.127,direct=eth0,mode=private",
    ] {
        assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
    }
    assert_eq!(
        "dhcp,source=default".parse::<Network>().unwrap(),
        Network::dhcp("default")
    );
    assert_eq!(
        "direct=eth0".parse::<Network>().unwrap().to_string(),
        "direct=eth0,mode=bridge"
    );
}

#[test]
fn contradictions_and_nonsense_are_refused() {
    for text in [
        "",
        "dhcp,",
        "dhcp,dhcp",
        "dhcp=x",
        "dhcp,dhcp=x",
        "user=x",
        "user,user",
        "user,source=default",
        "bridge=br0,direct=eth0",
        "bridge=",
        "bridge=a/b",
        "bridge=a-name-that-is-too-long",
        "direct=eth0,mode=wat",
        "direct=eth0,mode=vepa,mode=vepa",
        "mode=vepa",
        "bridge=br0,mode=vepa",
        "dhcp,address=192.0.2.7",
        "address=192.0.2.7,dhcp",
        "dhcp,route=10.0.0.0/8%192.0.2.1",
        "route=10.0.0.0/8%192.0.2.1",
        "address=192.0.2.300",
        "address=192.0.2.7%x",
        "address=192.0.2.7%192.0.2.300",
        "address=2001:db8::g",
        "address=2001:db8::7%2001:db8::8",
        "address=192.0.2.7,route=10.0.0.0/33%192.0.2.1",
        "address=192.0.2.7,route=x%192.0.2.1",
        "dhcp,route=10.0.0.0/8%192.0.2.1,address=192.0.2.7",
        "dhcp,filter.ip=192.0.2.7",
        "address=1.2.3.4,route=10.0.0.0/8",
        "mac=ff:ff:ff:ff:ff:ff",
        "mac=1:2:3:4:5:6",
        "mac=00:00:00:00:00:00",
        "source=",
        "source=a,source=b",
        "filter.ip=1.2.3.4",
        "wat=1",
        "source=a b",
        "source=<x>",
    ] {
        assert!(text.parse::<Network>().is_err(), "{text}");
    }
}
