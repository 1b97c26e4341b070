//! How much of the host's memory connections may take.
//!
//! Data that waits in sockets and pipes takes kernel memory of the host, which no group of the sandbox's counts: with version 1
//! of cgroups the kernel does not count buffers of TCP by default, and in the group of the domain libvirt would end whoever is
//! there with it. So there are as many connections as the sandbox has memory for, each with buffers of a fixed size: all together
//! at most a quarter of that memory, and another sixteenth for datagrams.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use crate::ports::listening::Listener;

/// Memory of the sandbox for each connection. Its least buffers and its pipes, which hold 64 KiB each, are a sixth of that.
const MEMORY: u64 = 2 << 20;

/// Fewest connections, however small the sandbox.
const FEWEST: usize = 64;

/// The least size of a buffer. A connection has four: two to who has come, two to the other side.
pub(super) const LEAST: usize = 64 << 10;

/// The greatest. It bounds what is on its way at a time: a hundred megabits a second over 80 ms.
const GREATEST: usize = 2 << 20;

/// Part of the memory that the first connections have for larger buffers, and of what is left of that for each.
const SPARE: u64 = 16;

/// Connections that wait to be accepted; of more the kernel drops the first segment, which is sent again.
const WAITING: i32 = 128;

/// Descriptors that a connection may take: two sockets and two pipes, and the end of a way.
const FILES: u64 = 7;

/// Number of connections there may be, and memory that their buffers may take.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    taken: usize,
    /// How many each client has: a whole network of IPv6, which is one host's, is one.
    clients: HashMap<IpAddr, usize>,
    /// Bytes that are left for larger buffers.
    spare: u64,
}

/// Share of one connection in [`Seats`].
#[derive(Debug)]
pub(super) struct Seat {
    client: IpAddr,
    spare: u64,
}

impl Seat {
    /// The size of each of its buffers.
    pub(super) fn buffer(&self) -> usize {
        LEAST + usize::try_from(self.spare / 4).unwrap_or(0)
    }
}

impl Seats {
    /// For a sandbox with so much memory; `pending` is what else a connection holds for long.
    pub(super) fn of(memory: u64, pending: u64) -> Self {
        let fitting = usize::try_from(memory / (MEMORY + 4 * pending)).unwrap_or(usize::MAX);
        Self {
            most: fitting.max(FEWEST).min(files()),
            taken: 0,
            clients: HashMap::new(),
            spare: memory / SPARE,
        }
    }

    /// How many there are.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether nobody can be let in.
    pub(super) fn are_taken(&self) -> bool {
        self.taken >= self.most
    }

    /// A seat for a client; `None` where all are taken, or the last quarter is left for others: who has a quarter already is not
    /// let in then.
    pub(super) fn take(&mut self, client: IpAddr) -> Option<Seat> {
        let client = who(client);
        let quarter = self.most / 4;
        let own = self.clients.get(&client).copied().unwrap_or(0);
        let is_short = self.taken >= self.most - quarter;
        if self.are_taken() || (is_short && own >= quarter) {
            return None;
        }
        self.taken += 1;
        self.clients.insert(client, own + 1);
        let spare = (self.spare / SPARE).min(4 * (GREATEST - LEAST) as u64);
        self.spare -= spare;
        Some(Seat { client, spare })
    }

    /// Takes a seat back.
    pub(super) fn give(&mut self, seat: &Seat) {
        self.taken -= 1;
        self.spare += seat.spare;
        if let Some(own) = self.clients.get_mut(&seat.client) {
            *own -= 1;
            if *own == 0 {
                self.clients.remove(&seat.client);
            }
        }
    }
}

/// Returns the address that stands for a client, of IPv6 its /64 network: a host with IPv6 has 2^64 addresses.
fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Gives a socket buffers of this size, instead of such as grow by themselves.
pub(super) fn bound(socket: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    // The kernel doubles it, for what it adds to the data (socket(7)).
    let size = size / 2;
    // Only root may have more than the system's limit.
    if setsockopt(&socket, sockopt::SndBufForce, &size).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &size)?;
    }
    if setsockopt(&socket, sockopt::RcvBufForce, &size).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &size)?;
    }
    Ok(())
}

/// Bounds what waits at a socket before it is accepted or read.
pub(super) fn bound_listener(listener: &Listener) -> io::Result<()> {
    if let Listener::Stream(socket) = listener {
        // Those that are accepted begin with the same.
        bound(socket.as_fd(), LEAST)?;
        listen(socket, Backlog::new(WAITING)?)?;
    }
    Ok(())
}

/// Returns how many connections there can be descriptors for, and lets this process have as many as it may.
fn files() -> usize {
    let files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    };
    usize::try_from(files.saturating_sub(64) / FILES)
        .unwrap_or(usize::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn what_connections_may_take_is_a_part_of_the_memory() {
        for memory in [256 << 20, 2 << 30, 64 << 30_u64] {
            let mut seats = Seats::of(memory, 0);
            let taken: Vec<Seat> = (0..)
                .map_while(|number| seats.take(client(number)))
                .collect();
            assert_eq!(taken.len(), seats.most());
            assert!(taken.len() as u64 <= memory / MEMORY);
            assert_eq!(taken[0].buffer() <= GREATEST, taken[0].buffer() > 4 * LEAST);
            let pipes = 2 * 65536 * taken.len();
            let buffers: usize = taken.iter().map(|seat| 4 * seat.buffer()).sum();
            assert!(
                (buffers + pipes) as u64 <= memory / 4,
                "{memory}: {buffers}"
            );
            let spare = seats.spare;
            taken.iter().for_each(|seat| seats.give(seat));
            assert!(seats.spare > spare && seats.spare == memory / SPARE);
            assert!(seats.clients.is_empty() && seats.taken == 0);
        }
        // One with little memory can be used by some.
        assert_eq!(Seats::of(0, 0).most(), FEWEST);
        assert!(Seats::of(1 << 30, 256 << 10).most() < Seats::of(1 << 30, 0).most());
    }

    #[test]
    fn nobody_takes_all_seats() {
        let mut seats = Seats::of(0, 0);
        let greedy: Vec<Seat> = (0..).map_while(|_| seats.take(client(7))).collect();
        assert_eq!(greedy.len(), FEWEST * 3 / 4);
        // The same host by other addresses, as a listener for both kinds sees them.
        assert!(seats.take("::ffff:0.0.0.7".parse().unwrap()).is_none());
        let others: Vec<Seat> = (0..)
            .map_while(|number| seats.take(client(100 + number)))
            .collect();
        assert_eq!(others.len(), FEWEST / 4);
        seats.give(&greedy[0]);
        assert!(seats.take(client(7)).is_none());
        assert!(seats.take(client(8)).is_some());

        let mut seats = Seats::of(0, 0);
        let host = |number: u32| format!("2001:db8::{number:x}").parse().unwrap();
        let greedy = (0..).map_while(|number| seats.take(host(number))).count();
        assert_eq!(greedy, FEWEST * 3 / 4);
    }
}
