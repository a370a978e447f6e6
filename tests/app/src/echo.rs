//! What the app speaks beside HTTP: it says who it is, sends back what comes, and says goodbye to who is done sending.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use crate::answer::identity;
use crate::dns;

/// Longer than any test waits on purpose.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves until told to stop; what is open then is cut.
pub(crate) async fn serve(listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(async move { drop(speak(stream).await) });
            },
            Some(_) = connections.join_next() => (),
            _ = stop.changed() => return,
        }
    }
}

async fn speak(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(format!("{}\n", identity()).as_bytes()).await?;
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.write_all(b"bye\n").await
}

/// All that is answered to `text` by whoever listens at `to`, a name and a port.
pub(crate) async fn ask(to: &str, text: &str) -> io::Result<String> {
    let all = async {
        let (name, port) = to.rsplit_once(':').ok_or_else(|| io::Error::other("no port"))?;
        let port: u16 = port.parse().map_err(io::Error::other)?;
        let addresses = dns::resolve(name).await?;
        let address = addresses.first().ok_or_else(|| io::Error::other("no address"))?;
        let mut stream = TcpStream::connect((*address, port)).await?;
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    time::timeout(PATIENCE, all).await.map_err(|_| io::Error::other("no end in 30 s"))?
}
