//! Limits on the host memory that connections may take.
//!
//! Data in sockets and pipes takes kernel memory of the host, which is not charged to the sandbox: cgroups
//! version 1 does not count TCP buffers by default, and the forwarder cannot join the domain's group, since
//! libvirt kills the processes of that group with the domain. So the number of connections depends on the
//! sandbox's memory, and each has buffers of a fixed size: all together take at most a quarter of that
//! memory, and datagrams another sixteenth.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use crate::ports::listening::Listener;

/// Memory of the sandbox per connection. Its smallest buffers and its pipes, which hold 64 KiB each, are a
/// sixth of that.
const MEMORY: u64 = 2 << 20;

/// Minimum number of connections, however small the sandbox.
const MIN_CONNECTIONS: usize = 64;

/// Smallest size of a buffer. A connection has four: two to the client, two to the other side.
pub(super) const MIN_BUFFER: usize = 64 << 10;

/// Largest size of a buffer. It bounds the data in flight: a hundred megabits a second over 80 ms.
const MAX_BUFFER: usize = 2 << 20;

/// Fraction of the memory that is available for larger buffers, and of the rest for each connection.
const SPARE: u64 = 16;

/// Backlog of connections that wait to be accepted; beyond it the kernel drops the first segment, which is
/// sent again.
const WAITING: i32 = 128;

/// Descriptors of a connection: two sockets, two pipes, and the end of a tunnel.
const FILES: u64 = 7;

/// Number of connections there may be, and memory that their buffers may take.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    taken: usize,
    /// Slots per client; an IPv6 /64 network counts as one client.
    clients: HashMap<IpAddr, usize>,
    /// Bytes left for larger buffers.
    spare: u64,
}

/// Share of one connection in [`Slots`].
#[derive(Debug)]
pub(super) struct Slot {
    client: IpAddr,
    spare: u64,
}

impl Slot {
    /// Returns the size of each of its buffers.
    pub(super) fn buffer(&self) -> usize {
        MIN_BUFFER + usize::try_from(self.spare / 4).unwrap_or(0)
    }
}

impl Slots {
    /// Computes the limits for a sandbox with `memory`; `pending` is what a connection holds besides its
    /// buffers.
    pub(super) fn of(memory: u64, pending: u64) -> Self {
        let fitting = usize::try_from(memory / (MEMORY + 4 * pending)).unwrap_or(usize::MAX);
        Self {
            most: fitting.max(MIN_CONNECTIONS).min(files()),
            taken: 0,
            clients: HashMap::new(),
            spare: memory / SPARE,
        }
    }

    /// Returns the maximum number of connections.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Returns whether no connection can be accepted.
    pub(super) fn are_taken(&self) -> bool {
        self.taken >= self.most
    }

    /// Takes a slot for a client; `None` if all are taken, or if only the last quarter is left and the
    /// client already has a quarter.
    pub(super) fn take(&mut self, client: IpAddr) -> Option<Slot> {
        let client = who(client);
        let quarter = self.most / 4;
        let own = self.clients.get(&client).copied().unwrap_or(0);
        let is_short = self.taken >= self.most - quarter;
        if self.are_taken() || (is_short && own >= quarter) {
            return None;
        }
        self.taken += 1;
        self.clients.insert(client, own + 1);
        let spare = (self.spare / SPARE).min(4 * (MAX_BUFFER - MIN_BUFFER) as u64);
        self.spare -= spare;
        Some(Slot { client, spare })
    }

    /// Returns a slot.
    pub(super) fn give(&mut self, slot: &Slot) {
        self.taken -= 1;
        self.spare += slot.spare;
        if let Some(own) = self.clients.get_mut(&slot.client) {
            *own -= 1;
            if *own == 0 {
                self.clients.remove(&slot.client);
            }
        }
    }
}

/// Returns the address that identifies a client. For IPv6 that is its /64 network: one host has 2^64
/// addresses.
fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Sets the buffers of a socket to a fixed size; otherwise they grow by themselves.
pub(super) fn bound(socket: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    // The kernel doubles the size, for its own overhead (socket(7)).
    let size = size / 2;
    // Only root may exceed the system's limit.
    if setsockopt(&socket, sockopt::SndBufForce, &size).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &size)?;
    }
    if setsockopt(&socket, sockopt::RcvBufForce, &size).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &size)?;
    }
    Ok(())
}

/// Bounds the data that waits at a socket before it is accepted or read.
pub(super) fn bound_listener(listener: &Listener) -> io::Result<()> {
    if let Listener::Stream(socket) = listener {
        // Accepted sockets inherit the size.
        bound(socket.as_fd(), MIN_BUFFER)?;
        listen(socket, Backlog::new(WAITING)?)?;
    }
    Ok(())
}

/// Returns the number of connections that there can be descriptors for, after raising the limit of this
/// process.
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
            let mut slots = Slots::of(memory, 0);
            let taken: Vec<Slot> = (0..)
                .map_while(|number| slots.take(client(number)))
                .collect();
            assert_eq!(taken.len(), slots.most());
            assert!(taken.len() as u64 <= memory / MEMORY);
            assert_eq!(
                taken[0].buffer() <= MAX_BUFFER,
                taken[0].buffer() > 4 * MIN_BUFFER
            );
            let pipes = 2 * 65536 * taken.len();
            let buffers: usize = taken.iter().map(|slot| 4 * slot.buffer()).sum();
            assert!(
                (buffers + pipes) as u64 <= memory / 4,
                "{memory}: {buffers}"
            );
            let spare = slots.spare;
            taken.iter().for_each(|slot| slots.give(slot));
            assert!(slots.spare > spare && slots.spare == memory / SPARE);
            assert!(slots.clients.is_empty() && slots.taken == 0);
        }
        // A sandbox with little memory still gets some connections.
        assert_eq!(Slots::of(0, 0).most(), MIN_CONNECTIONS);
        assert!(Slots::of(1 << 30, 256 << 10).most() < Slots::of(1 << 30, 0).most());
    }

    #[test]
    fn nobody_takes_all_seats() {
        let mut slots = Slots::of(0, 0);
        let greedy: Vec<Slot> = (0..).map_while(|_| slots.take(client(7))).collect();
        assert_eq!(greedy.len(), MIN_CONNECTIONS * 3 / 4);
        // The same host by other addresses, as a dual-stack listener sees them.
        assert!(slots.take("::ffff:0.0.0.7".parse().unwrap()).is_none());
        let others: Vec<Slot> = (0..)
            .map_while(|number| slots.take(client(100 + number)))
            .collect();
        assert_eq!(others.len(), MIN_CONNECTIONS / 4);
        slots.give(&greedy[0]);
        assert!(slots.take(client(7)).is_none());
        assert!(slots.take(client(8)).is_some());

        let mut slots = Slots::of(0, 0);
        let host = |number: u32| format!("2001:db8::{number:x}").parse().unwrap();
        let greedy = (0..).map_while(|number| slots.take(host(number))).count();
        assert_eq!(greedy, MIN_CONNECTIONS * 3 / 4);
    }
}
