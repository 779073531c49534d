//! A TCP proxy whose traffic can be cut, stalled or slowed while it runs.
//!
//! ```text
//! client ◄── answers pump ── target
//!    └────── requests pump ──► target        each pump asks the mode before every chunk
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Most bytes that a pump holds back, and the size of a chunk in [`Mode::Delay`].
const CHUNK_BYTES: usize = 16 * 1024;
/// How often a dripping pump sends something.
const DRIP_TICK: Duration = Duration::from_millis(50);

/// What the proxy does to every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything flows.
    Pass,
    /// All connections are closed, and new ones as soon as they are made.
    Cut,
    /// Connections stay open and nothing flows; new ones are accepted and reach the target only
    /// when the mode is another.
    Blackhole,
    /// One direction flows, the other stalls.
    OneWay {
        /// True: what the client sends flows. False: what the target sends flows.
        to_server: bool,
    },
    /// Every chunk of up to 16 KiB waits this long, each direction for itself.
    Delay(Duration),
    /// Writing towards the client is shut down, the other direction flows. For the connections that
    /// it meets this is for good: what the target still sends them is thrown away.
    HalfClose,
    /// Each direction flows this slowly; 0 stalls.
    Drip {
        /// Bytes in a second.
        bytes_per_second: u32,
    },
}

/// A listening proxy in front of one target. Dropped, it closes its port and all connections.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    /// Listens on `listen` (port 0 takes any free one) and forwards to `target`, which may be down:
    /// the client's connection is closed then.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<TcpProxy> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let connections = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(listener, target, modes, connections.clone()));
        Ok(TcpProxy {
            address,
            mode,
            connections,
            accepting,
        })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the mode, at once, for the connections that are there and for new ones.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Client connections that are open. While a direction stalls the proxy does not read it, so it
    /// sees a peer that left only afterwards.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Counted(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    modes: watch::Receiver<Mode>,
    count: Arc<AtomicUsize>,
) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // No file handles left, say: the next client may fare better.
                let Ok((client, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                if *modes.borrow() == Mode::Cut {
                    continue;
                }
                let counted = Counted::new(count.clone());
                let modes = modes.clone();
                open.spawn(async move {
                    let mut watched = modes.clone();
                    tokio::select! {
                        _ = watched.wait_for(|mode| *mode == Mode::Cut) => {}
                        _ = carry(client, target, modes) => {}
                    }
                    drop(counted);
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

/// Forwards one connection until both sides have ended, or one has failed.
async fn carry(
    client: TcpStream,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
) -> io::Result<()> {
    let open = |mode: &Mode| *mode != Mode::Blackhole;
    modes.wait_for(open).await.map_err(io::Error::other)?;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = Pump::new(Direction::ToServer, modes.clone());
    let answers = Pump::new(Direction::ToClient, modes);
    tokio::try_join!(
        requests.run(from_client, to_server),
        answers.run(from_server, to_client),
    )?;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// What a mode means for one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Free,
    Stalled,
    Closed,
    /// So many bytes at most after such a pause.
    Paced(usize, Duration),
}

fn flow(mode: Mode, direction: Direction) -> Flow {
    match mode {
        Mode::Pass => Flow::Free,
        Mode::Cut | Mode::Blackhole => Flow::Stalled,
        Mode::OneWay { to_server } if to_server == (direction == Direction::ToServer) => Flow::Free,
        Mode::OneWay { .. } => Flow::Stalled,
        Mode::Delay(pause) => Flow::Paced(CHUNK_BYTES, pause),
        Mode::HalfClose if direction == Direction::ToClient => Flow::Closed,
        Mode::HalfClose => Flow::Free,
        Mode::Drip {
            bytes_per_second: 0,
        } => Flow::Stalled,
        Mode::Drip { bytes_per_second } => {
            let ticks = Duration::from_secs(1).as_millis() / DRIP_TICK.as_millis();
            let share = u128::from(bytes_per_second) / ticks;
            match usize::try_from(share)
                .unwrap_or(CHUNK_BYTES)
                .min(CHUNK_BYTES)
            {
                0 => Flow::Paced(1, Duration::from_secs(1) / bytes_per_second),
                bytes => Flow::Paced(bytes, DRIP_TICK),
            }
        }
    }
}

/// One direction of one connection.
struct Pump {
    direction: Direction,
    modes: watch::Receiver<Mode>,
}

impl Pump {
    fn new(direction: Direction, modes: watch::Receiver<Mode>) -> Self {
        Pump { direction, modes }
    }

    /// Everything that waits here is abandoned when the mode changes, so that the change is
    /// effective at once; no byte is lost by that, for reads and writes are cancel safe.
    async fn run<R, W>(mut self, mut from: R, mut to: W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut held = 0..0;
        loop {
            let flow = flow(*self.modes.borrow_and_update(), self.direction);
            let (most, pause) = match flow {
                Flow::Free => (CHUNK_BYTES, Duration::ZERO),
                Flow::Paced(most, pause) => (most, pause),
                Flow::Closed => {
                    to.shutdown().await?;
                    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
                    return Ok(());
                }
                Flow::Stalled => {
                    // The sender is owned by the proxy; without it there is nothing left to carry.
                    self.modes.changed().await.map_err(io::Error::other)?;
                    continue;
                }
            };
            if held.is_empty() {
                let read = tokio::select! {
                    read = from.read(&mut buffer) => read?,
                    _ = self.modes.changed() => continue,
                };
                if read == 0 {
                    to.shutdown().await?;
                    return Ok(());
                }
                held = 0..read;
                // The mode may have changed while the peer was silent.
                continue;
            }
            if !pause.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = self.modes.changed() => continue,
                }
            }
            let end = held.end.min(held.start + most);
            let written = tokio::select! {
                written = to.write(&buffer[held.start..end]) => written?,
                _ = self.modes.changed() => continue,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            held.start += written;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_keeps_its_rate_at_both_ends_of_the_scale() {
        let of = |bytes_per_second| flow(Mode::Drip { bytes_per_second }, Direction::ToClient);
        assert_eq!(of(0), Flow::Stalled);
        assert_eq!(of(1), Flow::Paced(1, Duration::from_secs(1)));
        assert_eq!(of(10), Flow::Paced(1, Duration::from_millis(100)));
        assert_eq!(of(1_000), Flow::Paced(50, DRIP_TICK));
        assert_eq!(of(u32::MAX), Flow::Paced(CHUNK_BYTES, DRIP_TICK));
    }

    #[test]
    fn one_way_stalls_the_other_direction_alone() {
        let mode = Mode::OneWay { to_server: true };
        assert_eq!(flow(mode, Direction::ToServer), Flow::Free);
        assert_eq!(flow(mode, Direction::ToClient), Flow::Stalled);
        assert_eq!(flow(Mode::HalfClose, Direction::ToServer), Flow::Free);
        assert_eq!(flow(Mode::HalfClose, Direction::ToClient), Flow::Closed);
    }
}
