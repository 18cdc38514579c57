//! HTTP by hyper, on the stack: `hyper_hello serve PORT` says hello, and repeats what is posted to it;
//! `hyper_hello get HOST PORT PATH` prints what it gets.

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use libnetclient::tokio::{TcpListener, TcpStream};
use std::error::Error;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

async fn answer(request: Request<Incoming>) -> Outcome<Response<Full<Bytes>>> {
    let body = match *request.method() {
        Method::POST => request.into_body().collect().await?.to_bytes(),
        _ => Bytes::from(format!("hello from {}\n", request.uri().path())),
    };
    Ok(Response::new(Full::new(body)))
}

async fn serve(port: u16) -> Outcome<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, remote) = listener.accept().await?;
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = connection.await {
                eprintln!("hyper_hello: {remote}: {error}");
            }
        });
    }
}

async fn get(host: &str, port: u16, path: &str) -> Outcome<()> {
    let stream = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path).header("Host", host).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    println!("{}", response.status());
    print!("{}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    drop(sender);
    driver.await??;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port.parse()?).await,
        ["get", host, port, path] => get(host, port.parse()?, path).await,
        _ => {
            eprintln!("usage: hyper_hello serve PORT | hyper_hello get HOST PORT PATH");
            std::process::exit(2);
        }
    }
}
