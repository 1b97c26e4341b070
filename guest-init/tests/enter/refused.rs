//! Processes that `enter` refuses as a target, and capabilities that a command in a sandbox does not get.

use std::process::Command;

use crate::{ALL, NO_IDS, Place, enter, run};

/// Returns exit status, output and errors of a command.
fn says(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap();
    (code, text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_process_that_has_a_namespace_of_the_host_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: not root");
        return;
    }
    for (index, missing) in ALL.iter().enumerate() {
        let mut others = ALL.to_vec();
        others.remove(index);
        let place = Place::new(&others, NO_IDS);
        let (code, stdout, stderr) = says(&mut place.command(&[], &["echo", "ran"]));
        assert_eq!((code, stdout.as_str()), (125, ""), "{missing}: {stderr}");
        assert!(
            stderr.contains("namespace is the host's"),
            "{missing}: {stderr}"
        );
    }
}

#[test]
fn ids_have_to_be_those_of_the_configuration() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: not root");
        return;
    }
    let config =
        |first: u32| format!("{{\"idmap\":{{\"first\":{first},\"count\":65536}},\"other\":1}}");
    let user = [&ALL[..], &["--user"]].concat();
    for (namespaces, config, expected) in [
        (&ALL[..], NO_IDS.to_owned(), (0, "ran\n")),
        (&ALL[..], config(0), (125, "")),
        (&user, config(0), (0, "ran\n")),
        (&user, config(1 << 20), (125, "")),
        (&user, NO_IDS.to_owned(), (125, "")),
    ] {
        let place = Place::new(namespaces, &config);
        let (code, stdout, stderr) = says(&mut place.command(&[], &["echo", "ran"]));
        assert_eq!((code, stdout.as_str()), expected, "{config}: {stderr}");
    }
}

#[test]
fn another_process_of_the_same_number_is_refused() {
    let Some(mut command) = enter(&[], "echo ran") else {
        return;
    };
    let words: Vec<String> = (command.get_args())
        .map(|word| word.to_str().unwrap().to_owned())
        .collect();
    assert!(says(&mut command).0 == 0);
    let identity = words.iter().position(|word| word == "--identity").unwrap() + 1;
    let (namespace, started) = words[identity].split_once(':').unwrap();
    let later: u64 = started.parse::<u64>().unwrap() + 1;
    for other in [format!("{namespace}:{later}"), format!("1:{started}")] {
        let mut changed = words.clone();
        changed[identity] = other;
        let mut again = Command::new(command.get_program());
        let (code, stdout, _) = says(again.args(changed));
        assert_eq!((code, stdout.as_str()), (125, ""));
    }
}

#[test]
fn what_the_configuration_drops_is_dropped() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: not root");
        return;
    }
    let config = "{\"idmap\":null,\"confinement\":{\"dropped\":[\"CAP_SYS_MODULE\",\"CAP_SYS_TIME\"],\"filter\":null,\"masked\":[],\"read-only\":[]}}";
    let place = Place::new(&ALL, config);
    let script = "sed -n 's/^Cap\\(Bnd\\|Prm\\|Eff\\):\\s*//p' /proc/self/status";
    let (code, output) = run(place.command(&[], &["sh", "-c", script]), b"");
    assert_eq!(code, 0);
    for mask in output.lines() {
        let mask = u64::from_str_radix(mask, 16).unwrap();
        // capabilities(7): their numbers.
        assert_eq!(mask & (1 << 16 | 1 << 25), 0, "{output}");
    }
    assert_eq!(output.lines().count(), 3);
}
