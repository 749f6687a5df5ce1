//! Frames however the link cuts, glues, loses or changes them; series likewise. Nothing here panics.

use hanas_proto::frame::{Deframer, FrameError, Step, decode, encode, framed_len};
use hanas_proto::samples::{SeriesReader, SeriesWriter};
use hanas_proto::{Nanos, ToAgent};
use proptest::prelude::*;

/// Longest payload of these tests' receiver.
const MAX_FRAME: usize = 600;

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Frame(Vec<u8>),
    Broken(FrameError),
}

fn receiver() -> Deframer<Vec<u8>> {
    Deframer::new(vec![0; framed_len(MAX_FRAME)])
}

fn feed(deframer: &mut Deframer<Vec<u8>>, mut bytes: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (taken, step) = deframer.feed(bytes);
        assert!(taken > 0);
        bytes = &bytes[taken..];
        match step {
            Step::Incomplete => {}
            Step::Frame(payload) => found.push(Found::Frame(payload.to_vec())),
            Step::Broken(error) => found.push(Found::Broken(error)),
        }
    }
    found
}

fn chunk(data: &[u8]) -> Vec<u8> {
    let message = ToAgent::BlobChunk { id: 1, offset: 0, data };
    let (mut scratch, mut out) = (vec![0; MAX_FRAME + 4], vec![0; framed_len(MAX_FRAME)]);
    encode(&message, &mut scratch, &mut out).unwrap().to_vec()
}

fn data_of(found: &Found) -> &[u8] {
    match found {
        Found::Frame(payload) => match decode(payload) {
            Ok(ToAgent::BlobChunk { data, .. }) => data,
            other => panic!("{other:?}"),
        },
        Found::Broken(error) => panic!("{error}"),
    }
}

#[test]
fn a_frame_in_single_bytes_is_one_frame() {
    let frame = chunk(b"hello");
    let mut deframer = receiver();
    let (last, front) = frame.split_last().unwrap();
    for byte in front {
        assert_eq!(feed(&mut deframer, &[*byte]), []);
        assert!(deframer.is_mid_frame());
    }
    let found = feed(&mut deframer, &[*last]);
    assert_eq!(data_of(&found[0]), b"hello");
    assert!(!deframer.is_mid_frame());
}

#[test]
fn frames_glued_together_are_several() {
    let bytes = [chunk(b"one"), chunk(b"two"), chunk(b"")].concat();
    let found = feed(&mut receiver(), &bytes);
    assert_eq!(found.iter().map(data_of).collect::<Vec<_>>(), [&b"one"[..], b"two", b""]);
}

#[test]
fn delimiters_alone_are_nothing() {
    let bytes = [&[0, 0, 0][..], &chunk(b"x"), &[0, 0], &chunk(b"y"), &[0]].concat();
    assert_eq!(feed(&mut receiver(), &bytes).len(), 2);
}

#[test]
fn a_cut_frame_costs_itself_only() {
    let whole = chunk(b"some content");
    for end in 1..whole.len() - 1 {
        // The sender begins anew, with a delimiter first.
        let bytes = [&whole[..end], &[0], &chunk(b"next")].concat();
        let found = feed(&mut receiver(), &bytes);
        assert!(matches!(found[0], Found::Broken(FrameError::Garbled | FrameError::Checksum)), "{end}");
        assert_eq!(data_of(&found[1]), b"next");
    }
}

#[test]
fn an_overlong_frame_is_dropped_to_its_end() {
    let mut bytes = vec![7; 10 * MAX_FRAME];
    bytes.push(0);
    bytes.extend(chunk(b"next"));
    let found = feed(&mut receiver(), &bytes);
    assert_eq!(found[0], Found::Broken(FrameError::TooLong));
    assert_eq!(data_of(&found[1]), b"next");
}

#[test]
fn a_message_that_does_not_fit_is_not_half_written() {
    let message = ToAgent::BlobChunk { id: 1, offset: 0, data: &[5; 100] };
    let mut big = [0; 200];
    assert_eq!(encode(&message, &mut [0; 100], &mut big), Err(FrameError::MessageTooLong));
    assert_eq!(encode(&message, &mut [0; 105], &mut big), Err(FrameError::MessageTooLong));
    assert_eq!(encode(&message, &mut [0; 200], &mut [0; 50]), Err(FrameError::MessageTooLong));
}

#[test]
fn the_longest_frame_fits() {
    // Envelope of a chunk: variant, id, offset, and two bytes of length.
    let data = vec![9; MAX_FRAME - 5];
    let found = feed(&mut receiver(), &chunk(&data));
    assert_eq!(data_of(&found[0]), data);
}

proptest! {
    #[test]
    fn whatever_is_sent_arrives_however_it_is_cut(
        contents in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..590), 1..8),
        cut in 1usize..700,
    ) {
        let bytes: Vec<u8> = contents.iter().flat_map(|data| chunk(data)).collect();
        let mut deframer = receiver();
        let found: Vec<Found> = bytes.chunks(cut).flat_map(|piece| feed(&mut deframer, piece)).collect();
        let arrived: Vec<&[u8]> = found.iter().map(data_of).collect();
        prop_assert_eq!(arrived, contents.iter().map(|data| &data[..]).collect::<Vec<_>>());
    }

    #[test]
    fn no_zero_lies_within_a_frame(data in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..590)) {
        let frame = chunk(&data);
        prop_assert_eq!(frame.iter().position(|&byte| byte == 0), Some(frame.len() - 1));
    }

    #[test]
    fn a_changed_byte_is_found_and_the_next_frame_is_right(
        data in prop::collection::vec(any::<u8>(), 1..300),
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let mut bytes = chunk(&data);
        let place = place.index(bytes.len() - 1);
        bytes[place] ^= flip;
        // A change may make a delimiter, or unmake one only at the very end, which is not touched here.
        bytes.extend(chunk(b"next"));
        let found = feed(&mut receiver(), &bytes);
        prop_assert!(matches!(found[0], Found::Broken(_)));
        prop_assert_eq!(data_of(found.last().unwrap()), b"next");
        prop_assert!(found[..found.len() - 1].iter().all(|found| matches!(found, Found::Broken(_))));
    }

    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut deframer = receiver();
        feed(&mut deframer, &noise);
        feed(&mut deframer, &[0]);
        let found = feed(&mut deframer, &chunk(b"hello"));
        prop_assert_eq!(found.iter().map(data_of).collect::<Vec<_>>(), [&b"hello"[..]]);
    }

    #[test]
    fn series_come_back_as_they_were(
        list in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u64>(), 1..50)), 0..6),
    ) {
        let mut buffer = vec![0; 10 * 60 * 6];
        let mut writer = SeriesWriter::new(&mut buffer);
        for (key, values) in &list {
            let values: Vec<Nanos> = values.iter().copied().map(Nanos).collect();
            prop_assert!(writer.push(*key, &values));
        }
        let read: Vec<(u16, Vec<u64>)> = SeriesReader::new(writer.bytes())
            .map(|series| series.map(|series| (series.key, series.map(|time| time.0).collect())))
            .collect::<Result<_, _>>()
            .unwrap();
        prop_assert_eq!(read, list);
    }

    #[test]
    fn damaged_series_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut budget = 0;
        for series in SeriesReader::new(&bytes).flatten() {
            prop_assert!(series.len() <= bytes.len());
            budget += series.count();
        }
        prop_assert!(budget <= bytes.len());
    }

    #[test]
    fn a_series_that_does_not_fit_leaves_nothing(room in 0usize..40) {
        let values: Vec<Nanos> = (0..30).map(|n| Nanos(n * 1000)).collect();
        let mut buffer = vec![0; room];
        let mut writer = SeriesWriter::new(&mut buffer);
        prop_assert!(!writer.push(3, &values));
        prop_assert!(writer.bytes().is_empty());
    }
}

#[test]
fn samples_of_one_model_take_two_bytes_each() {
    let values: Vec<Nanos> = (0..100u64).map(|n| Nanos(1_000_000 + n * 7919 % 8000)).collect();
    let mut buffer = [0; 1000];
    let mut writer = SeriesWriter::new(&mut buffer);
    assert!(writer.push(200, &values));
    assert!(writer.bytes().len() <= 2 * values.len() + 6, "{}", writer.bytes().len());
}

#[test]
fn empty_and_overlong_series_are_damage() {
    for bytes in [
        &[3, 0][..],                                                      // count of none
        &[3, 9, 1],                                                       // more than there is
        &[3, 1, 0x80],                                                    // a cut varint
        &[3, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], // more than 64 bits
        &[0xff, 0xff, 4, 1, 1],                                           // a key of 17 bits
    ] {
        let mut reader = SeriesReader::new(bytes);
        assert!(reader.next().unwrap().is_err(), "{bytes:?}");
        assert!(reader.next().is_none());
    }
}
