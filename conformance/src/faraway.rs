//! A way to an address on which everything takes longer, there and back; it needs no rights.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

/// Who connects here is connected with somebody far away. The way ends with the value.
#[derive(Debug)]
pub struct Way {
    /// Where it begins.
    pub address: SocketAddr,
    carrying: JoinHandle<()>,
}

impl Way {
    /// A way to an address, of so much time in each direction.
    pub fn to(far: SocketAddr, delay: Duration) -> anyhow::Result<Way> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let carrying = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // Nobody there is what the caller is told by the end of its connection.
                    let Ok(far) = TcpStream::connect(far).await else { return };
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    tokio::spawn(carry(from_far, to_near, delay));
                    carry(from_near, to_far, delay).await;
                });
            }
        });
        Ok(Way { address, carrying })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

/// Carries bytes in one direction, as many at a time as come: only their time changes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (send, mut underway) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        while let Some((due, bytes)) = underway.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if send.send((Instant::now() + delay, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}
