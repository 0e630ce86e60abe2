//! The streams that another member dialled: what raft has for it goes into the bodies of its requests.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use forebay_proto::raftpb::Message;
use http_body::Frame;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    client::PATIENCE,
    codec::{Encoder, Kind},
    link::Link,
};

/// Messages that wait for one stream. What they hold is shared with the log in memory.
const WAITING_MAX: usize = 4096;
/// Bytes that are encoded before they are sent on.
const FRAME_BYTES: usize = 256 << 10;

/// Where messages for one stream go while it is attached.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<(u64, mpsc::Sender<Message>)>>);

/// Why a message did not go into a stream.
pub(super) enum Unsent {
    /// There is no stream: it may go another way.
    Detached(Box<Message>),
    /// The member does not keep up.
    Full,
}

impl Slot {
    /// Takes a message, if there is a stream that has room.
    pub(super) fn send(&self, message: Message) -> Result<(), Unsent> {
        let mut slot = self.0.lock();
        let Some((_, sender)) = &*slot else { return Err(Unsent::Detached(Box::new(message))) };
        match sender.try_send(message) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Unsent::Full),
            Err(mpsc::error::TrySendError::Closed(message)) => {
                *slot = None;
                Err(Unsent::Detached(Box::new(message)))
            }
        }
    }

    /// Ends the stream that is attached, if any.
    pub(super) fn detach(&self) {
        *self.0.lock() = None;
    }
}

/// The body of a stream. A new one of the same kind takes its place, and then it ends.
pub(super) struct Outgoing {
    link: Arc<Link>,
    kind: Kind,
    /// Tells this body from those that took its place.
    number: u64,
    receiver: mpsc::Receiver<Message>,
    encoder: Encoder,
    heartbeat: Interval,
    replaced: bool,
}

impl Outgoing {
    /// Attaches a new stream to its link.
    pub(super) fn attach(link: Arc<Link>, kind: Kind) -> Outgoing {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let number = {
            let mut slot = link.slot(kind).0.lock();
            let number = slot.as_ref().map_or(0, |(number, _)| *number) + 1;
            *slot = Some((number, sender));
            number
        };
        link.activate();
        let mut heartbeat = interval(PATIENCE / 3);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Outgoing { link, kind, number, receiver, encoder: Encoder::new(kind), heartbeat, replaced: false }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let mut out = BytesMut::new();
        while out.len() < FRAME_BYTES {
            match this.receiver.poll_recv(cx) {
                Poll::Ready(Some(message)) => this.encoder.encode(&message, &mut out),
                Poll::Ready(None) => {
                    this.replaced = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        if out.is_empty() {
            if this.replaced {
                return Poll::Ready(None);
            }
            ready!(this.heartbeat.poll_tick(cx));
            this.encoder.heartbeat(&mut out);
        }
        this.link.sent(out.len());
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.replaced {
            return;
        }
        // The connection is gone.
        let mut slot = self.link.slot(self.kind).0.lock();
        if slot.take_if(|(number, _)| *number == self.number).is_some() {
            drop(slot);
            self.link.deactivate("its stream has ended");
            if !self.receiver.is_empty() {
                self.link.lost();
            }
        }
    }
}
