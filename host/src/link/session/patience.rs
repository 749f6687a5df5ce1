//! How long a session waits for what.

use std::time::{Duration, Instant};

use crate::link::DeviceUrl;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the link to open and the agent to say welcome.
    pub connect: Duration,
    /// For another session to leave the device.
    pub queue: Duration,
    /// For one request (a load, an inference, one visit's runs).
    pub run: Duration,
    /// For any sign of life, heartbeats included.
    pub idle: Duration,
    /// For a lost link to come back.
    pub reconnect: Duration,
}

/// What the command of an `exec:` link may take until the agent says welcome: ssh logs in first, and may ask
/// for a password.
const LOG_IN: Duration = Duration::from_secs(30);

impl Timeouts {
    /// As long as that address needs.
    pub(super) fn at(self, url: &DeviceUrl) -> Self {
        match url {
            DeviceUrl::Exec(_) => Self { connect: self.connect.max(LOG_IN), ..self },
            _ => self,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            queue: Duration::from_secs(600),
            run: Duration::from_secs(300),
            idle: Duration::from_secs(10),
            reconnect: Duration::from_secs(20),
        }
    }
}

/// A request unanswered for this long is asked again, where the link itself takes no time: the frame may
/// have been lost.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Later waits double up to this: the agent may just be busy.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Bytes that may be on their way before a request and its answer.
const ON_THE_WAY: u32 = 2048;

/// When to ask again. Heartbeats come all the while, so it is not silence that tells of a loss.
#[derive(Debug, Clone, Copy)]
pub(in crate::link) struct Patience {
    first: Duration,
    wait: Duration,
    since: Instant,
}

impl Patience {
    /// Begins to wait.
    pub(in crate::link) fn new(url: &DeviceUrl) -> Self {
        let first = match url {
            // A serial byte takes ten bits.
            DeviceUrl::Serial { baud, .. } => FIRST_WAIT + Duration::from_secs(10) * ON_THE_WAY / *baud,
            _ => FIRST_WAIT,
        };
        Self { first, wait: first, since: Instant::now() }
    }

    /// Something came: begins anew.
    pub(in crate::link) fn renew(&mut self) {
        (self.wait, self.since) = (self.first, Instant::now());
    }

    /// Whether to ask again now; the next wait is longer.
    pub(in crate::link) fn is_over(&mut self) -> bool {
        let over = self.since.elapsed() >= self.wait;
        if over {
            (self.wait, self.since) = ((2 * self.wait).min(LONGEST_WAIT.max(self.first)), Instant::now());
        }
        over
    }

    /// Time until then.
    pub(in crate::link) fn left(&self) -> Duration {
        self.wait.saturating_sub(self.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_the_time_to_log_in() {
        let connect = |url: &str| Timeouts::default().at(&url.parse::<DeviceUrl>().unwrap()).connect;
        assert_eq!(connect("exec:ssh pi ./hanas-agent serve --stdio"), LOG_IN);
        for url in ["local:", "tcp://127.0.0.1:7700", "serial:///dev/ttyUSB0"] {
            assert_eq!(connect(url), Timeouts::default().connect, "{url}");
        }
    }
}
