//! Netlink: what the kernel reveals and does by messages about the network, sockets and processes.

use std::os::fd::FromRawFd;

use super::*;

const ROUTE: usize = 0;
const SOCKETS: usize = 4;
const CONNECTOR: usize = 11;

/// `NLMSG_DONE` and `NLMSG_ERROR`
const ENDS: [u16; 2] = [3, 2];

/// Opens a non-blocking netlink socket.
fn socket(protocol: usize) -> Result<File, String> {
    let kind = (libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as usize;
    let opened = call(libc::SYS_socket, [16, kind, protocol, 0, 0])?;
    let number = i32::try_from(opened).map_err(|error| error.to_string())?;
    // SAFETY: the kernel has just opened this descriptor for us.
    Ok(unsafe { File::from_raw_fd(number) })
}

/// Encodes a message: `struct nlmsghdr` and its content.
fn message(kind: u16, flags: u16, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + content.len()).unwrap_or_default();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(content);
    bytes
}

/// Requests a dump and returns the kernel's answers.
fn all(protocol: usize, kind: u16, question: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut socket = socket(protocol)?;
    // NLM_F_REQUEST and NLM_F_DUMP
    let question = message(kind, 0x301, question);
    socket.write_all(&question).map_err(io)?;
    let (mut answers, mut buffer) = (Vec::new(), vec![0; 1 << 17]);
    loop {
        let size = socket.read(&mut buffer).map_err(io)?;
        let mut rest = &buffer[..size];
        while let Some((&length, _)) = rest.split_first_chunk::<4>() {
            let length = u32::from_ne_bytes(length) as usize;
            let one = rest.get(..length).ok_or("cut off")?;
            let kind = u16::from_ne_bytes([one[4], one[5]]);
            if ENDS.contains(&kind) {
                return Ok(answers);
            }
            answers.push(one[16..].to_vec());
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Returns the name of a NIC from an answer: the attribute `IFLA_IFNAME` after `struct ifinfomsg`.
fn nic(answer: &[u8]) -> Option<String> {
    let mut rest = answer.get(16..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let value = rest.get(4..length)?;
        if rest.get(2..4)? == 3_u16.to_ne_bytes() {
            return Some(
                String::from_utf8_lossy(value)
                    .trim_end_matches('\0')
                    .to_owned(),
            );
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// Returns the attempts by netlink.
pub fn attempts() -> Vec<Attempt> {
    vec![
        ("be told of NICs of the host", Kernel, |_| {
            // RTM_GETLINK
            let answers = all(ROUTE, 18, &[0; 16])?;
            let mut names = answers.iter().filter_map(|answer| nic(answer));
            let foreign = names.find(|name| name != "lo" && !name.starts_with("eth"));
            foreign.ok_or_else(|| format!("{} of its own", answers.len()))
        }),
        ("be told of sockets of the host", All, |host| {
            // `struct inet_diag_req_v2`: TCP over IPv4, those that listen
            let mut question = [0; 56];
            (question[0], question[1]) = (2, 6);
            question[4..8].copy_from_slice(&(1_u32 << 10).to_ne_bytes());
            // SOCK_DIAG_BY_FAMILY
            let answers = all(SOCKETS, 20, &question)?;
            let port = host.port.to_be_bytes();
            match answers.iter().any(|one| one.get(4..6) == Some(&port[..])) {
                true => Ok(format!("port {} listens", host.port)),
                false => Err(format!("{} of its own", answers.len())),
            }
        }),
        ("be told of processes of the host", Kernel, |_| {
            let mut socket = socket(CONNECTOR)?;
            // `struct sockaddr_nl` with the group CN_IDX_PROC
            let mut place = [0_u8; 12];
            place[0] = 16;
            place[8] = 1;
            let at = address(&place);
            let number = socket.as_raw_fd() as usize;
            call(libc::SYS_bind, [number, at, 12, 0, 0])?;
            // `struct cn_msg` with PROC_CN_MCAST_LISTEN
            let mut words = [1_u32, 1, 0, 0, 4, 1].map(u32::to_ne_bytes).concat();
            words[16..20].copy_from_slice(&[4, 0, 0, 0]);
            socket.write_all(&message(3, 1, &words)).map_err(io)?;
            std::thread::sleep(Duration::from_millis(300));
            let size = socket.read(&mut [0; 4096]).map_err(io)?;
            Ok(format!("{size} bytes"))
        }),
    ]
}
