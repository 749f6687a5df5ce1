//! Bytes between a chip's RTT and a socket, until either ends.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use probe_rs::Session;
use probe_rs::rtt::Rtt;

/// A quiet chip is looked at this often. Each look reads its memory, which some probes stop the core for.
const LOOK: Duration = Duration::from_millis(5);

/// Bytes asked of the chip or the socket at a time.
const PIECE: usize = 4096;

/// Carries bytes both ways. What ended it shows at the socket's other end as its end.
pub(super) fn pump(mut session: Session, mut rtt: Rtt, socket: &UnixStream) {
    if socket.set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    let mut buffer = [0; PIECE];
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let up = read(&mut session, &mut rtt, &mut buffer);
        let Ok(count) = up else { return };
        let mut socket_writer = socket;
        if count > 0 && socket_writer.write_all(&buffer[..count]).is_err() {
            return;
        }
        // A busy chip is looked at again at once; a quiet one after the socket's deadline.
        if pending.is_empty() && count < PIECE {
            let mut socket_reader = socket;
            match socket_reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => pending.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        if !pending.is_empty() {
            let Ok(written) = write(&mut session, &mut rtt, &pending) else { return };
            pending.drain(..written);
        }
    }
}

fn read(session: &mut Session, rtt: &mut Rtt, into: &mut [u8]) -> Result<usize, ()> {
    let mut core = session.core(0).map_err(drop)?;
    let channel = rtt.up_channel(0).ok_or(())?;
    channel.read(&mut core, into).map_err(drop)
}

fn write(session: &mut Session, rtt: &mut Rtt, bytes: &[u8]) -> Result<usize, ()> {
    let mut core = session.core(0).map_err(drop)?;
    let channel = rtt.down_channel(0).ok_or(())?;
    channel.write(&mut core, bytes).map_err(drop)
}
