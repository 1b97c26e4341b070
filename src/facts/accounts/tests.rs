use super::*;
use proptest::prelude::*;

fn host() -> Texts {
    Texts {
        passwd: "\
root:x:0:0:root:/root:/bin/bash
daemon:$6$old$hash:1:1:daemon:/usr/sbin:/usr/sbin/nologin
+nis::::::
-out
ada:x:1000:1000:Ada,,,:/home/ada:/bin/bash
app:x:1500:1500::/srv/app:/bin/false
toor:x:0:0:second:/root:/bin/sh
_sys:x:998:2000::/:/bin/false

# a comment
broken line
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
owner:x:1700:1000::/:/bin/false
open::7:1::/:/bin/false
"
        .into(),
        group: "\
root:x:0:
daemon:x:1:ada,app,stranger
adm:$1$salt$hash:4:ada,daemon
ada:x:1000:
app:x:1500:ada
people:x:1001:ada
shared:x:1002:ada,app
files:x:1003:
sysmain:x:2000:
nogroup:x:65534:
bad:x:many:
"
        .into(),
        shadow: "\
root:$6$salt$secret:19000:0:99999:7:::
daemon:*:19000:0:99999:7:::
ada:$6$salt$ada:19000:0:99999:7:::
app:!:19001:1:9:7:5:20000:
short:x:1
"
        .into(),
        gshadow: "\
root:*::
daemon:$6$salt$group:ada,daemon:ada,app
ada:!::
shared:!:ada:ada,app
"
        .into(),
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// Filters texts; returns the result and the dropped lines.
fn filter(texts: &Texts, limits: Limits, needed: &Needed) -> (Texts, Vec<BadLine>) {
    let kept = Accounts::parse(texts).filter(limits, needed);
    (kept.render(), kept.bad_lines)
}

#[test]
fn people_and_passwords_stay_on_the_host() {
    let needed = Needed {
        users: names(&["app", "no-such"]),
        groups: names(&["shared"]),
        uids: [1700].into(),
        gids: [1003].into(),
    };
    let (texts, bad_lines) = filter(&host(), Limits::default(), &needed);
    let expected = Texts {
        passwd: "\
root:x:0:0:root:/root:/bin/bash
daemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin
app:x:1500:1500::/srv/app:/bin/false
toor:x:0:0:second:/root:/bin/sh
_sys:x:998:2000::/:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
owner:x:1700:1000::/:/bin/false
open:*:7:1::/:/bin/false
"
        .into(),
        // `ada` stays as a group: it is the primary group of `owner`.
        group: "\
root:x:0:
daemon:x:1:app
adm:*:4:daemon
ada:x:1000:
app:x:1500:
shared:x:1002:app
files:x:1003:
sysmain:x:2000:
nogroup:x:65534:
"
        .into(),
        shadow: "\
root:*:19000:0:99999:7:::
daemon:*:19000:0:99999:7:::
app:*:19001:1:9:7:5:20000:
"
        .into(),
        gshadow: "\
root:*::
daemon:*:daemon:app
ada:*::
shared:*::app
"
        .into(),
    };
    assert_eq!(texts, expected);
    let bad: Vec<_> = bad_lines.iter().map(ToString::to_string).collect();
    assert_eq!(
        bad,
        [
            "'/etc/passwd' line 11: the number of fields is wrong",
            "'/etc/group' line 11: the gid is no number",
            "'/etc/shadow' line 5: the number of fields is wrong",
        ]
    );
}

#[test]
fn limits_come_from_login_defs() {
    let cases = [
        ("", 999, 999),
        ("# SYS_UID_MAX 5\nUID_MIN 1000\n", 999, 999),
        ("UID_MIN 500\nGID_MIN\t600", 499, 599),
        (
            "  SYS_UID_MAX\t\t201\nUID_MIN 1000\nSYS_GID_MAX 0x1F4",
            201,
            500,
        ),
        ("SYS_UID_MAX 0764\nSYS_GID_MAX many", 500, 999),
        ("SYS_UID_MAX 0\nUID_MIN 0\nGID_MIN 0", 0, 999),
    ];
    for (text, system_uid_max, system_gid_max) in cases {
        let expected = Limits {
            system_uid_max,
            system_gid_max,
        };
        assert_eq!(Limits::from_login_defs(text), expected, "{text}");
    }
    let limits = Limits::from_login_defs("SYS_UID_MAX 0\nSYS_GID_MAX 0");
    let kept = Accounts::parse(&host()).filter(limits, &Needed::default());
    let users: Vec<_> = kept.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(users, ["root", "toor", "nobody"]);
}

#[test]
fn accounts_are_looked_up_by_name() {
    let accounts = Accounts::parse(&host());
    let ada = accounts.user("ada").unwrap();
    assert_eq!((ada.uid, ada.home.as_str()), (1000, "/home/ada"));
    assert_eq!(accounts.group("shared").unwrap().gid, 1002);
    assert!(accounts.user("out").is_none() && accounts.group("none").is_none());
}

#[test]
fn hashes_are_not_printed() {
    let printed = format!("{:?}", Accounts::parse(&host()));
    assert!(
        !printed.contains("salt$") && !printed.contains("$old$"),
        "{printed}"
    );
}

proptest! {
    #[test]
    fn no_hash_gets_through(
        lines in proptest::collection::vec("[a-z]{1,3}:HASH:[0-9]{1,4}:[0-9]{0,4}(:[a-z,]{0,4}){0,5}", 0..20),
    ) {
        let text = lines.join("\n");
        let texts = Texts { passwd: text.clone(), group: text.clone(), shadow: text.clone(), gshadow: text };
        let (kept, _) = filter(&texts, Limits::default(), &Needed::default());
        for text in [&kept.passwd, &kept.group, &kept.shadow, &kept.gshadow] {
            prop_assert!(!text.contains("HASH"), "{}", text);
        }
        // Filtering twice changes nothing and finds no bad lines.
        prop_assert_eq!(filter(&kept, Limits::default(), &Needed::default()), (kept, Vec::new()));
    }
}
