//! Tensors of a model that lie in other held content: a graph's index lists, sent once for a thousand
//! models on that graph.
//!
//! ```text
//! external location = "blake3:" digest       64 lower-case hexadecimal digits
//! offset, length    = decimal, in bytes      of the content; all of it where they are missing
//! ```
//!
//! Any other location stays what it is and is refused after this.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::Path;

use hanas_proto::Digest;
use hanas_proto::fault::FaultCode;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataLocation;

use super::Trouble;
use crate::blobs::parse_digest;

/// Begins a location that is held content.
const SCHEME: &str = "blake3:";

/// Puts the data of every such initializer into the graph; at most `max_bytes` in all.
///
/// # Errors
/// [`Trouble`] where content is not held, not what its digest says, or shorter than asked for.
pub fn bring_in(graph: &mut pb::GraphProto, folder: &Path, max_bytes: u64) -> Result<(), Trouble> {
    let mut contents: HashMap<Digest, Vec<u8>> = HashMap::new();
    let mut room = max_bytes;
    for tensor in &mut graph.initializer {
        let Some(location) = of(tensor, "location").and_then(|location| location.strip_prefix(SCHEME)) else {
            continue;
        };
        let name = tensor.name.clone();
        let bad = |what: &str| Trouble::new(FaultCode::NotAModel, format!("tensor '{name}': {what}"));
        let digest = parse_digest(location).ok_or_else(|| bad("its location is no digest"))?;
        let content = match contents.entry(digest) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(read(folder, digest)?),
        };
        let number =
            |key: &str| of(tensor, key).map(|text| text.parse::<usize>().map_err(|_| bad("no number")));
        let start = number("offset").transpose()?.unwrap_or(0);
        let length = number("length").transpose()?.unwrap_or(content.len().saturating_sub(start));
        let end = start.checked_add(length).filter(|&end| end <= content.len());
        let data =
            end.map(|end| content[start..end].to_vec()).ok_or_else(|| bad("its content is shorter"))?;
        room = room.checked_sub(length as u64).ok_or_else(|| {
            let text = format!("the model takes more than {max_bytes} bytes from other content");
            Trouble::new(FaultCode::TooLarge, text)
        })?;
        tensor.raw_data = data;
        tensor.external_data.clear();
        tensor.data_location = None;
    }
    Ok(())
}

fn of<'t>(tensor: &'t pb::TensorProto, key: &str) -> Option<&'t str> {
    if tensor.data_location != Some(DataLocation::External as i32) {
        return None;
    }
    tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}

/// Content whose digest was checked here, by who uses it: it may have lain on the disk for long.
fn read(folder: &Path, digest: Digest) -> Result<Vec<u8>, Trouble> {
    let unknown = || Trouble::new(FaultCode::UnknownBlob, format!("no content {digest} is held"));
    let content = fs::read(folder.join(digest.to_string())).map_err(|_| unknown())?;
    if blake3::hash(&content).as_bytes() == &digest.0 { Ok(content) } else { Err(unknown()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(entries: &[(&str, &str)]) -> pb::GraphProto {
        let entry = |&(key, value): &(&str, &str)| pb::StringStringEntryProto {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let tensor = pb::TensorProto {
            name: "source".to_owned(),
            data_location: Some(DataLocation::External as i32),
            external_data: entries.iter().map(entry).collect(),
            ..pb::TensorProto::default()
        };
        pb::GraphProto { initializer: vec![tensor], ..pb::GraphProto::default() }
    }

    fn brought(entries: &[(&str, &str)], folder: &Path) -> Result<Vec<u8>, Trouble> {
        let mut graph = graph(entries);
        bring_in(&mut graph, folder, 4)?;
        let tensor = &graph.initializer[0];
        assert_eq!(tensor.data_location.is_none(), tensor.external_data.is_empty());
        Ok(tensor.raw_data.clone())
    }

    #[test]
    fn held_content_is_taken_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let digest = blake3::hash(b"0123456789").to_hex().to_string();
        fs::write(folder.path().join(&digest), b"0123456789").unwrap();
        let location = format!("blake3:{digest}");
        let at = |offset, length| {
            brought(&[("location", &location), ("offset", offset), ("length", length)], folder.path())
        };
        assert_eq!(at("3", "4").unwrap(), b"3456");
        assert_eq!(brought(&[("location", &location), ("offset", "8")], folder.path()).unwrap(), b"89");
        assert_eq!(at("8", "3").unwrap_err().code, FaultCode::NotAModel);
        assert_eq!(at("18446744073709551615", "1").unwrap_err().code, FaultCode::NotAModel);
        assert_eq!(at("x", "1").unwrap_err().code, FaultCode::NotAModel);
        assert_eq!(at("0", "5").unwrap_err().code, FaultCode::TooLarge);

        fs::write(folder.path().join(&digest), b"something else").unwrap();
        assert_eq!(at("3", "4").unwrap_err().code, FaultCode::UnknownBlob);
    }

    #[test]
    fn no_other_place_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), b"1234").unwrap();
        for location in ["blake3:secret", "blake3:../secret", "blake3:"] {
            assert_eq!(
                brought(&[("location", location)], folder.path()).unwrap_err().code,
                FaultCode::NotAModel
            );
        }
        // A plain file name is left for the refusal of all outside data.
        assert_eq!(brought(&[("location", "secret")], folder.path()).unwrap(), b"");
    }
}
