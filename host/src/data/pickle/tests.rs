use super::*;

const INT_ARRAY: &[u8] = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02i4K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x08\x00\x00\x00\x07\x00\x00\x00\xfe\xff\xff\xfftb.";

#[test]
fn an_array_and_a_dictionary_of_lists_are_read() {
    let Value::Array(array) = load(INT_ARRAY).unwrap() else { panic!("an array") };
    assert_eq!((array.shape.as_slice(), array.values()), (&[2][..], vec![7.0, -2.0]));
    let lists = b"\x80\x02ccollections\ndefaultdict\nq\x01c__builtin__\nlist\nq\x02\x85Rq\x03(K\x00]q\x04(M\x01\x02K\x05eK\x01]q\x05K\x00au.";
    let list = |items: &[i64]| Value::List(items.iter().map(|&n| Value::Int(n)).collect());
    let wanted = vec![(Value::Int(0), list(&[513, 5])), (Value::Int(1), list(&[0]))];
    assert_eq!(load(lists), Ok(Value::Dict(wanted)));
}

#[test]
fn nothing_is_executed() {
    let shell = load(b"\x80\x02cos\nsystem\nU\x04true\x85R.").unwrap_err();
    assert_eq!(shell, PickleError::Class { module: "os".into(), name: "system".into() });
    // A known class, called with what it is not called with.
    assert!(matches!(load(b"\x80\x02c__builtin__\nlist\n)R."), Err(PickleError::Misfit { .. })));
    // INST, the other way to call.
    assert!(matches!(load(b"\x80\x02(ios\nsystem\n."), Err(PickleError::Instruction { code: b'i', .. })));
}

/// Every prefix and every damaged byte is an error or a value, never a panic.
#[test]
fn damage_is_an_error() {
    for end in 0..INT_ARRAY.len() {
        assert!(load(&INT_ARRAY[..end]).is_err(), "{end}");
    }
    for at in 0..INT_ARRAY.len() {
        for byte in [0, b'(', b't', b'b', b'R', 0xff] {
            let mut damaged = INT_ARRAY.to_vec();
            damaged[at] = byte;
            let _ = load(&damaged);
        }
    }
    assert!(load(b"PK\x03\x04").is_err());
}

/// A few hundred bytes that mean gigabytes, and a value nested a million times.
#[test]
fn small_files_stay_small() {
    let doubled = [&b"Nq\0"[..], &b"h\0h\0\x86q\0".repeat(40), b"."].concat();
    assert!(matches!(load(&doubled), Err(PickleError::Misfit { .. })));
    let nested = [&b"N"[..], &b"\x85".repeat(1_000_000), b"."].concat();
    assert!(matches!(load(&nested), Err(PickleError::Misfit { .. })));
    let lists = [&b"]".repeat(100_000)[..], &b"a".repeat(99_999), b"."].concat();
    assert!(matches!(load(&lists), Err(PickleError::Misfit { .. })));
}
