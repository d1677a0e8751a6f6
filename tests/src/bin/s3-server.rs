//! The S3 server of the tests as a program of its own, for benchmarks: prints its address, serves until it is killed.

use pgproof_tests::s3_server::S3Server;

fn main() {
    let server = S3Server::start();
    println!("{}", server.url());
    loop {
        std::thread::park();
    }
}
