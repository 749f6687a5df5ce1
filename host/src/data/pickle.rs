//! Python pickles of numpy arrays, CSR matrices and adjacency lists, as the Planetoid files hold them.
//!
//! A pickle is a program. This reader knows the two dozen instructions (protocol 2) and the six classes
//! that those files use, makes plain values of them, and runs nothing; anything else is an error that
//! names it.

use std::collections::HashMap;

/// What a pickle holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A list.
    List(Vec<Value>),
    /// A dictionary.
    Dict(Vec<(Value, Value)>),
    /// A numpy array.
    Array(Array),
    /// A scipy CSR matrix: its attributes.
    Csr(Vec<(Value, Value)>),
    /// A class that may be called.
    Class(Class),
    /// A numpy kind of number.
    Kind(Kind),
    /// A value that changed after it was noted: these files never ask for one again.
    Stale,
}

/// The classes known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `numpy.ndarray`.
    NdArray,
    /// `numpy.core.multiarray._reconstruct`.
    Reconstruct,
    /// `numpy.dtype`.
    Dtype,
    /// `scipy.sparse.csr_matrix`.
    CsrMatrix,
    /// `collections.defaultdict`.
    DefaultDict,
    /// `list`.
    List,
}

impl Class {
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("numpy", "ndarray") => Self::NdArray,
            ("numpy.core.multiarray", "_reconstruct") => Self::Reconstruct,
            ("numpy", "dtype") => Self::Dtype,
            ("scipy.sparse.csr", "csr_matrix") => Self::CsrMatrix,
            ("collections", "defaultdict") => Self::DefaultDict,
            ("__builtin__", "list") => Self::List,
            _ => return None,
        })
    }
}

/// Kinds of numbers, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 4-byte integers.
    I4,
    /// 8-byte integers.
    I8,
    /// 4-byte floats.
    F4,
    /// 8-byte floats.
    F8,
}

impl Kind {
    const fn bytes(self) -> usize {
        match self {
            Self::I4 | Self::F4 => 4,
            Self::I8 | Self::F8 => 8,
        }
    }
}

/// A numpy array, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub shape: Vec<usize>,
    kind: Kind,
    data: Vec<u8>,
}

impl Array {
    /// The values.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        // Chunks are as long as the kind, so that the conversions have no way to fail.
        let of = |bytes: &[u8]| match self.kind {
            Kind::I4 => f64::from(i32::from_le_bytes(bytes.try_into().unwrap_or_default())),
            Kind::I8 => i64::from_le_bytes(bytes.try_into().unwrap_or_default()) as f64,
            Kind::F4 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap_or_default())),
            Kind::F8 => f64::from_le_bytes(bytes.try_into().unwrap_or_default()),
        };
        self.data.chunks_exact(self.kind.bytes()).map(of).collect()
    }
}

/// A file that is no such pickle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It ends in the middle.
    #[error("it is cut short at byte {at}")]
    CutShort {
        /// Where.
        at: usize,
    },
    /// An instruction that is not known here.
    #[error("byte {at} is instruction {code:#04x}, which these files do not have")]
    Instruction {
        /// Where.
        at: usize,
        /// Its code.
        code: u8,
    },
    /// A class that is not known here.
    #[error("it wants {module}.{name}, which is not loaded")]
    Class {
        /// The module.
        module: String,
        /// The class.
        name: String,
    },
    /// An instruction finds other values than it takes.
    #[error("instruction {code:#04x} at byte {at} does not fit the values before it")]
    Misfit {
        /// Where.
        at: usize,
        /// Its code.
        code: u8,
    },
}

/// Reads a pickle.
///
/// # Errors
/// [`PickleError`] where it holds anything but plain arrays, matrices and lists.
pub fn load(bytes: &[u8]) -> Result<Value, PickleError> {
    let copies = bytes.len().saturating_mul(COPIES).saturating_add(SPARE);
    let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
    let mut machine = Machine { bytes, at: 0, stack, marks, memo, copies };
    loop {
        let (at, code) = (machine.at, machine.take(1)?[0]);
        if code == b'.' {
            return machine.stack.pop().ok_or(PickleError::Misfit { at, code });
        }
        match machine.step(code) {
            Ok(Some(())) => {}
            Ok(None) => return Err(PickleError::Misfit { at, code }),
            Err(Halt::Unknown) => return Err(PickleError::Instruction { at, code }),
            Err(Halt::Other(error)) => return Err(error),
        }
    }
}

/// Containers within each other; these files have three.
const DEEPEST: usize = 16;
/// A file's length times this is what its noted values may take, each time they are noted or asked for. Without a
/// limit a few hundred bytes, each tuple noted twice in the next, would fill any memory.
const COPIES: usize = 8;
/// So much more, for small files.
const SPARE: usize = 4096;

enum Halt {
    /// No such instruction.
    Unknown,
    Other(PickleError),
}

impl From<PickleError> for Halt {
    fn from(error: PickleError) -> Self {
        Self::Other(error)
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Parts of values that may still be copied.
    copies: usize,
}

/// Parts that a copy has: bytes and values.
fn parts(value: &Value) -> usize {
    let pair = |(key, value): &(Value, Value)| parts(key) + parts(value);
    1 + match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Tuple(items) | Value::List(items) => items.iter().map(parts).sum(),
        Value::Dict(pairs) | Value::Csr(pairs) => pairs.iter().map(pair).sum(),
        Value::Array(array) => array.data.len(),
        _ => 0,
    }
}

/// Whether the values hold no more than so many containers within each other: what is dropped, copied or compared
/// goes down into all of them.
fn is_shallow(values: &[Value], left: usize) -> bool {
    let one = |value: &Value, left| is_shallow(std::slice::from_ref(value), left);
    values.iter().all(|value| match value {
        Value::Tuple(items) | Value::List(items) => left > 0 && is_shallow(items, left - 1),
        Value::Dict(pairs) | Value::Csr(pairs) => {
            left > 0 && pairs.iter().all(|(key, value)| one(key, left - 1) && one(value, left - 1))
        }
        _ => true,
    })
}

impl Machine<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], PickleError> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(PickleError::CutShort { at: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u32, PickleError> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or(PickleError::CutShort { at: self.bytes.len() })?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }

    /// Does one instruction; `None` where the stack does not fit it.
    fn step(&mut self, code: u8) -> Result<Option<()>, Halt> {
        let value = match code {
            // PROTO
            0x80 => {
                return Ok((self.number(1)? == 2).then_some(()));
            }
            // MARK
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(Some(()));
            }
            // BINPUT, LONG_BINPUT
            b'q' => return Ok(self.number(1).map(|key| self.note(key))?),
            b'r' => return Ok(self.number(4).map(|key| self.note(key))?),
            // BINGET, LONG_BINGET
            b'h' | b'j' => {
                let key = self.number(if code == b'h' { 1 } else { 4 })?;
                match self.memo.get(&key) {
                    Some(Value::Stale) | None => return Ok(None),
                    Some(value) => match self.copies.checked_sub(parts(value)) {
                        Some(left) => {
                            self.copies = left;
                            value.clone()
                        }
                        None => return Ok(None),
                    },
                }
            }
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            // BININT1, BININT2, BININT
            b'K' => Value::Int(self.number(1)?.into()),
            b'M' => Value::Int(self.number(2)?.into()),
            b'J' => Value::Int((self.number(4)? as i32).into()),
            // SHORT_BINSTRING, BINSTRING
            b'U' | b'T' => {
                let length = self.number(if code == b'U' { 1 } else { 4 })?;
                Value::Bytes(self.take(length as usize)?.to_vec())
            }
            b')' => Value::Tuple(Vec::new()),
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let class = Class::of(&module, &name);
                Value::Class(class.ok_or(Halt::Other(PickleError::Class { module, name }))?)
            }
            _ => return self.combine(code),
        };
        self.stack.push(value);
        Ok(Some(()))
    }

    /// Instructions that make one value of several.
    fn combine(&mut self, code: u8) -> Result<Option<()>, Halt> {
        Ok(match code {
            // TUPLE1, TUPLE2, TUPLE3, TUPLE
            0x85..=0x87 => {
                self.tail(usize::from(code - 0x84)).map(|items| self.stack.push(Value::Tuple(items)))
            }
            b't' => self.marked().map(|items| self.stack.push(Value::Tuple(items))),
            // APPEND, APPENDS
            b'a' => self.tail(1).and_then(|items| self.extend(items)),
            b'e' => self.marked().and_then(|items| self.extend(items)),
            // SETITEMS
            b'u' => self.marked().and_then(|items| self.set_items(items)),
            // REDUCE, NEWOBJ
            b'R' => self.tail(2).and_then(|call| self.call(call)),
            0x81 => self.tail(2).and_then(|call| self.new_object(call)),
            // BUILD
            b'b' => self.tail(2).and_then(|pair| self.build(pair)),
            _ => return Err(Halt::Unknown),
        })
    }

    fn note(&mut self, key: u32) -> Option<()> {
        let value = match self.stack.last()? {
            // What is still to be filled would be noted empty.
            Value::List(_) | Value::Dict(_) | Value::Array(_) | Value::Csr(_) => Value::Stale,
            Value::Tuple(items) if items.len() > 8 => Value::Stale,
            value => {
                self.copies = self.copies.checked_sub(parts(value))?;
                value.clone()
            }
        };
        self.memo.insert(key, value);
        Some(())
    }

    fn tail(&mut self, count: usize) -> Option<Vec<Value>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= floor)?;
        self.split_off(start)
    }

    fn marked(&mut self) -> Option<Vec<Value>> {
        let start = self.marks.pop().filter(|&start| start <= self.stack.len())?;
        self.split_off(start)
    }

    /// The top of the stack, to be put into a container.
    fn split_off(&mut self, start: usize) -> Option<Vec<Value>> {
        let items = self.stack.split_off(start);
        is_shallow(&items, DEEPEST).then_some(items)
    }

    fn extend(&mut self, items: Vec<Value>) -> Option<()> {
        let Some(Value::List(list)) = self.stack.last_mut() else { return None };
        list.extend(items);
        Some(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Option<()> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else { return None };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            dict.push((key, items.next()?));
        }
        Some(())
    }

    fn call(&mut self, call: Vec<Value>) -> Option<()> {
        let [Value::Class(class), Value::Tuple(arguments)] = &call[..] else { return None };
        let made = match (class, &arguments[..]) {
            (Class::Reconstruct, [Value::Class(Class::NdArray), ..]) => {
                Value::Array(Array { shape: Vec::new(), kind: Kind::I4, data: Vec::new() })
            }
            (Class::Dtype, [Value::Bytes(name), ..]) => Value::Kind(match &name[..] {
                b"i4" => Kind::I4,
                b"i8" => Kind::I8,
                b"f4" => Kind::F4,
                b"f8" => Kind::F8,
                _ => return None,
            }),
            (Class::DefaultDict, [Value::Class(Class::List)]) => Value::Dict(Vec::new()),
            _ => return None,
        };
        self.stack.push(made);
        Some(())
    }

    fn new_object(&mut self, call: Vec<Value>) -> Option<()> {
        let [Value::Class(Class::CsrMatrix), Value::Tuple(_)] = &call[..] else { return None };
        self.stack.push(Value::Csr(Vec::new()));
        Some(())
    }

    fn build(&mut self, pair: Vec<Value>) -> Option<()> {
        let Ok([object, state]): Result<[Value; 2], _> = pair.try_into() else { return None };
        let built = match (object, state) {
            (Value::Csr(_), Value::Dict(attributes)) => Value::Csr(attributes),
            (Value::Kind(kind), Value::Tuple(state)) => {
                // (version, byte order, ...)
                let Some(Value::Bytes(order)) = state.get(1) else { return None };
                matches!(&order[..], b"<" | b"|" | b"=").then_some(Value::Kind(kind))?
            }
            (Value::Array(_), Value::Tuple(state)) => Value::Array(array(state)?),
            _ => return None,
        };
        self.stack.push(built);
        Some(())
    }
}

/// An array of its state: (version, shape, kind, column-major, bytes).
fn array(state: Vec<Value>) -> Option<Array> {
    let Ok([_, Value::Tuple(shape), Value::Kind(kind), Value::Bool(column_major), Value::Bytes(data)]): Result<
        [Value; 5],
        _,
    > = state.try_into() else {
        return None;
    };
    let size = |value: &Value| if let Value::Int(size) = value { usize::try_from(*size).ok() } else { None };
    let shape: Vec<usize> = shape.iter().map(size).collect::<Option<_>>()?;
    let values = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
    let fits = values.checked_mul(kind.bytes()) == Some(data.len()) && (!column_major || shape.len() == 1);
    fits.then_some(Array { shape, kind, data })
}

#[cfg(test)]
mod tests;
