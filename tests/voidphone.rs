//! The VoidPhone API as the course's modules and test clients use it, byte for byte.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Node, PATIENCE, network};

fn key(n: u8) -> [u8; 32] {
    std::array::from_fn(|i| n.wrapping_add(i as u8))
}

fn put(ttl_s: u16, replication: u8, key: &[u8; 32], value: &[u8]) -> Vec<u8> {
    let mut message = ((40 + value.len()) as u16).to_be_bytes().to_vec();
    message.extend([2, 138]);
    message.extend(ttl_s.to_be_bytes());
    message.extend([replication, 0]);
    message.extend(key);
    message.extend(value);
    message
}

fn get(key: &[u8; 32]) -> Vec<u8> {
    [&[0, 36, 2, 139], &key[..]].concat()
}

fn success(key: &[u8; 32], value: &[u8]) -> Vec<u8> {
    [&((36 + value.len()) as u16).to_be_bytes()[..], &[2, 140], key, value].concat()
}

fn failure(key: &[u8; 32]) -> Vec<u8> {
    [&[0, 36, 2, 141], &key[..]].concat()
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn expect(stream: &mut TcpStream, answer: &[u8]) {
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, answer);
}

fn expect_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset closes as well as a FIN does.
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"", "nothing is said before closing");
}

#[test]
fn the_worked_bytes_of_the_page() {
    let key: [u8; 32] = std::array::from_fn(|i| i as u8);
    assert_eq!(put(9, 1, &key, b"hello")[..8], [0, 0x2d, 2, 0x8a, 0, 9, 1, 0]);
    let nodes = network(3, 2);
    let mut client = connect(nodes[0].api.unwrap());
    client.write_all(&put(9, 1, &key, b"hello")).unwrap();
    client.write_all(&get(&key)).unwrap();
    expect(&mut client, &[&[0, 0x29, 2, 0x8c], &key[..], b"hello"].concat());
}

#[test]
fn the_courses_client() {
    let nodes = network(5, 4);
    let mut client = connect(nodes[1].api.unwrap());
    client.write_all(&put(1, 20, &key(1), b"a value of the course")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    client.write_all(&get(&key(1))).unwrap();
    // It reads once, so the answer must come in one piece.
    let mut buffer = [0; 4096];
    let n = client.read(&mut buffer).unwrap();
    assert_eq!(buffer[..n], success(&key(1), b"a value of the course"));
    std::thread::sleep(Duration::from_millis(700));
    client.write_all(&get(&key(1))).unwrap();
    expect(&mut client, &failure(&key(1)));
}

#[test]
fn a_get_of_nothing_fails_and_a_put_is_never_answered() {
    let nodes = network(3, 2);
    let mut client = connect(nodes[2].api.unwrap());
    client.write_all(&get(&key(2))).unwrap();
    expect(&mut client, &failure(&key(2)));
    client.write_all(&put(5, 0, &key(3), b"x")).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "silence");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut other = connect(nodes[0].api.unwrap());
    other.write_all(&get(&key(3))).unwrap();
    expect(&mut other, &success(&key(3), b"x"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let nodes = network(5, 4);
    let mut client = connect(nodes[0].api.unwrap());
    let mut requests = Vec::new();
    let mut answers = Vec::new();
    for n in 0..40 {
        requests.extend(put(5, 3, &key(10), &[n; 50]));
        requests.extend(get(&key(10)));
        answers.extend(success(&key(10), &[n; 50]));
        if n % 3 == 0 {
            requests.extend(get(&key(200)));
            answers.extend(failure(&key(200)));
        }
    }
    client.write_all(&requests).unwrap();
    expect(&mut client, &answers);
}

#[test]
fn what_is_malformed_closes_without_a_word() {
    let node = Node::start_with_api(&[]);
    let too_large = [&65_504u16.to_be_bytes()[..], &[2, 138], &[0; 100]].concat();
    let rows: [(&str, Vec<u8>); 7] = [
        ("an empty PUT", put(5, 1, &key(1), b"")),
        ("a GET of 35 bytes", [&[0, 35, 2, 139][..], &[7; 31]].concat()),
        ("a GET of 37 bytes", [&[0, 37, 2, 139][..], &[7; 33]].concat()),
        ("a type that is none of the API's", [&[0, 8, 2, 142][..], &[0; 4]].concat()),
        ("an answer", success(&key(1), b"v")),
        ("a size below the smallest", vec![0, 3, 2, 139]),
        ("a value above 65,463 bytes", too_large),
    ];
    for (what, bytes) in rows {
        let mut client = connect(node.api.unwrap());
        client.write_all(&bytes).unwrap();
        println!("{what}");
        expect_closed(&mut client);
    }
    assert!(node.counter("malformed") >= 3 && node.counter("unknown_types") >= 2 && node.counter("bad_sizes") >= 2);
}

#[test]
fn the_largest_value_and_a_module_that_is_silent_for_long() {
    let nodes = network(3, 2);
    let mut silent = connect(nodes[0].api.unwrap());
    let mut client = connect(nodes[1].api.unwrap());
    let value: Vec<u8> = (0..65_463).map(|i| (i % 251) as u8).collect();
    client.write_all(&put(9, 3, &key(9), &value)).unwrap();
    client.write_all(&get(&key(9))).unwrap();
    // A SUCCESS with it has 65,499 bytes.
    expect(&mut client, &success(&key(9), &value));
    // Longer than a silent connection lives at the sealed listener.
    std::thread::sleep(Duration::from_secs(11));
    silent.write_all(&get(&key(77))).unwrap();
    expect(&mut silent, &failure(&key(77)));
}

#[test]
fn a_get_is_answered_within_four_seconds_though_all_others_are_stopped() {
    let nodes = network(8, 7);
    nodes[1..].iter().for_each(|node| node.signal("STOP"));
    let mut client = connect(nodes[0].api.unwrap());
    let begin = Instant::now();
    client.write_all(&get(&key(50))).unwrap();
    expect(&mut client, &failure(&key(50)));
    println!("FAILURE after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(20), "4 s, on a busy machine five times that");
    nodes[1..].iter().for_each(|node| node.signal("CONT"));
}
