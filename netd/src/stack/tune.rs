//! Tunables of sysctl(8): what a new value changes, at once or for what comes later.
//!
//! Called for a change and, with every value that is in the configuration, by a successor before it looks at
//! a frame. Not here: names, bounds and defaults ([`proto::hard::sysctl`]).

use super::Stack;
use super::clients::socket_options;
use super::socket::Kind;
use crate::tcp::congestion::Kind as Algorithm;
use crate::tcp::control_block::ControlBlock;
use crate::tcp::ecn::Ecn;
use crate::tcp::expiry::{MostTries, ORPHAN_RETRIES_MAX};
use proto::Instant;
use proto::hard::sysctl::Tunable;
use proto::shm::Memory;

impl<M: Memory + Clone> Stack<M> {
    /// Gives a tunable another value. `false`, and nothing has changed, when it takes no such value.
    pub(super) fn tune(&mut self, now: Instant, tunable: Tunable, value: u32) -> bool {
        if !self.tunables.set(tunable, value) {
            return false;
        }
        let on = value != 0;
        // Those of one byte have it as their bound.
        let byte = u8::try_from(value).unwrap_or(u8::MAX);
        match tunable {
            Tunable::Ttl => self.ip.ttl = byte,
            Tunable::HopLimit => {
                self.ip.link.interfaces_mut().iter_mut().for_each(|interface| interface.hop_limit = byte);
            }
            Tunable::Congestion => {
                self.settings.congestion = match value {
                    0 => Algorithm::NewReno,
                    1 => Algorithm::Cubic,
                    _ => Algorithm::Bbr,
                };
            }
            Tunable::WindowScaling => self.settings.window_scaling = on,
            Tunable::Timestamps => self.settings.timestamps = on,
            Tunable::Sack => self.settings.sack = on,
            Tunable::Ecn => {
                self.settings.ecn = match value {
                    0 => Ecn::Off,
                    1 => Ecn::Request,
                    _ => Ecn::Accept,
                };
            }
            Tunable::Retries2 | Tunable::SynRetries | Tunable::SynAckRetries | Tunable::OrphanRetries => {
                self.set_most_tries();
            }
            Tunable::KeepaliveTime | Tunable::KeepaliveInterval | Tunable::KeepaliveProbes => {
                let tunables = self.tunables;
                self.for_each_connection(now, |block, client| {
                    block.set_options(now, socket_options(client, &tunables));
                });
            }
            Tunable::ChallengeLimit => self.challenges.per_second = value,
            Tunable::ErrorRate => self.ip.errors.per_second = value,
            Tunable::ErrorBurst => self.ip.errors.burst = value,
            Tunable::EchoIgnore => self.ip.ignores_echo[0] = on,
            Tunable::EchoIgnoreV6 => self.ip.ignores_echo[1] = on,
            Tunable::HashPolicy => self.ip.routes.set_by_ports(false, on),
            Tunable::UseNeighbours => self.ip.routes.set_use_neighbours(on),
            Tunable::HashPolicyV6 => self.ip.routes.set_by_ports(true, on),
            // Looked up where they are needed.
            Tunable::SynCookies | Tunable::SynBacklog | Tunable::FastOpen => {}
        }
        true
    }

    /// As with Linux they count for connections that are there, too.
    fn set_most_tries(&mut self) {
        let tries = |tunable: Tunable| u8::try_from(self.tunables.get(tunable)).unwrap_or(u8::MAX);
        self.most_tries = MostTries {
            syn: tries(Tunable::SynRetries),
            syn_ack: tries(Tunable::SynAckRetries),
            data: tries(Tunable::Retries2),
            orphaned: match tries(Tunable::OrphanRetries) {
                0 => ORPHAN_RETRIES_MAX,
                tries => tries,
            },
        };
    }

    fn for_each_connection(
        &mut self,
        now: Instant,
        mut act: impl FnMut(&mut ControlBlock, &proto::arena::line::ClientLine),
    ) {
        let indices: Vec<u32> = self.sockets.indices().collect();
        for index in indices {
            let Some(socket) = self.sockets.get_mut(index) else { continue };
            let Kind::Tcp(block) = &mut socket.kind else { continue };
            act(block, &socket.client);
            self.reschedule(now, index);
        }
    }
}
