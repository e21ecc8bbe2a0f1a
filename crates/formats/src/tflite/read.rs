//! Reads a `.tflite` file into [`super::schema`]'s data, checked against the file's size and
//! against itself, before any of it becomes a graph.
//!
//! The schema is `schema.fbs` (version 3) of LiteRT; the numbers below are its field numbers.

use super::flatbuffer::{FlatError, Table, Vector};
use super::schema::{
    Model, Operator, OperatorCode, SchemaError, Signature, SparseDim, Sparsity, SubGraph, Tensor,
    TensorType,
};
use kinglet_graph::Quant;
use std::ops::Range;
use std::sync::Arc;

/// Largest size of one tensor in elements: what 32-bit sizes of the format itself can say.
const MAX_ELEMENTS: usize = i32::MAX as usize;

/// How many tensors, operators and lists a file may hold for its size: each needs some bytes of
/// its own in any real file, so a file that points at the same bytes again and again is refused
/// before it fills memory.
struct Allowance {
    bytes_left: usize,
}

impl Allowance {
    fn take(&mut self, bytes: usize) -> Result<(), SchemaError> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            SchemaError::content("the file describes more than it has room for: it points at the same bytes repeatedly")
        })?;
        Ok(())
    }
}

/// Reads and checks a whole file: every index within bounds, every size representable, every
/// constant as large as its shape and type say.
///
/// # Errors
/// What is wrong and where; nothing larger than a few times `bytes` is allocated on the way.
pub fn read(bytes: &[u8]) -> Result<Model<'_>, SchemaError> {
    let root = Table::root(bytes, b"TFL3")?;
    let version = root.scalar(0, 0u32)?;
    if version != 3 {
        return Err(SchemaError::content(format!(
            "schema version {version}; only version 3 is supported"
        )));
    }
    let mut allowance = Allowance { bytes_left: bytes.len() };
    let mut codes = Vec::new();
    for (i, code) in root.tables(1)?.iter().enumerate() {
        allowance.take(4)?;
        codes.push(
            code.and_then(operator_code)
                .map_err(|e| SchemaError::from(e).within(format_args!("operator code {i}")))?,
        );
    }
    let mut buffers = Vec::new();
    for (i, buffer) in root.tables(4)?.iter().enumerate() {
        allowance.take(4)?;
        let range = buffer.map_err(SchemaError::from).and_then(|b| buffer_range(b, bytes));
        buffers.push(range.map_err(|e| e.within(format_args!("buffer {i}")))?);
    }
    let count = root.tables(2)?.len();
    let mut subgraphs = Vec::new();
    for (i, table) in root.tables(2)?.iter().enumerate() {
        let context = Context { codes: &codes, buffers: &buffers, bytes };
        let subgraph =
            table.map_err(SchemaError::from).and_then(|t| context.subgraph(t, &mut allowance));
        subgraphs.push(subgraph.map_err(|e| e.within(format_args!("subgraph {i}")))?);
    }
    if count == 0 {
        return Err(SchemaError::content("the file holds no subgraph"));
    }
    let mut signatures = Vec::new();
    for (i, table) in root.tables(7)?.iter().enumerate() {
        allowance.take(8)?;
        let signature =
            table.map_err(SchemaError::from).and_then(|t| signature(t, &subgraphs, &mut allowance));
        signatures.push(signature.map_err(|e| e.within(format_args!("signature {i}")))?);
    }
    let mut metadata = Vec::new();
    for table in root.tables(6)?.iter() {
        let table = table?;
        let name = table.string(0)?;
        allowance.take(8 + name.len())?;
        if let Some(Some(range)) = buffers.get(table.scalar(1, 0u32)? as usize) {
            metadata.push((name, range.clone()));
        }
    }
    Ok(Model { description: root.string(3)?, codes, subgraphs, signatures, metadata })
}

fn operator_code(table: Table<'_>) -> Result<OperatorCode, FlatError> {
    let old = i32::from(table.scalar(0, 0i8)?);
    let new = table.scalar(3, 0i32)?;
    // Writers that know only the old field leave the new one at 0; the newer ones put the
    // placeholder in the old field where the code does not fit it.
    Ok(OperatorCode {
        code: old.max(new),
        custom: table.string(1)?,
        version: table.scalar(2, 1i32)?,
    })
}

/// Where a buffer's bytes lie in the file; `None` for the empty one that stands for "computed".
fn buffer_range(table: Table<'_>, bytes: &[u8]) -> Result<Option<Range<usize>>, SchemaError> {
    let data: Vector<'_, u8> = table.vector(0)?;
    if !data.is_empty() {
        return Ok(Some(data.position()..data.position() + data.len()));
    }
    // Offsets 0 and 1 mark data within the FlatBuffer; others point behind it (large models).
    let (offset, size) = (table.scalar(1, 0u64)?, table.scalar(2, 0u64)?);
    if offset <= 1 {
        return Ok(None);
    }
    let start = usize::try_from(offset).ok();
    let end = offset.checked_add(size).and_then(|end| usize::try_from(end).ok());
    match (start, end) {
        (Some(start), Some(end)) if end <= bytes.len() => Ok(Some(start..end)),
        _ => Err(SchemaError::content(format!(
            "{size} bytes at {offset} lie outside the file of {} bytes",
            bytes.len()
        ))),
    }
}

fn signature(
    table: Table<'_>,
    subgraphs: &[SubGraph<'_>],
    allowance: &mut Allowance,
) -> Result<Signature, SchemaError> {
    let subgraph = table.scalar(4, 0u32)? as usize;
    let Some(graph) = subgraphs.get(subgraph) else {
        return Err(SchemaError::content(format!("subgraph {subgraph} does not exist")));
    };
    let mut names = |field| -> Result<Vec<(String, usize)>, SchemaError> {
        let mut names = Vec::new();
        for entry in table.tables(field)?.iter() {
            let entry = entry?;
            let (name, tensor) = (entry.string(0)?, entry.scalar(1, 0u32)? as usize);
            allowance.take(8 + name.len())?;
            if tensor >= graph.tensors.len() {
                return Err(SchemaError::content(format!("tensor {tensor} does not exist")));
            }
            names.push((name, tensor));
        }
        Ok(names)
    };
    Ok(Signature { inputs: names(0)?, outputs: names(1)?, key: table.string(2)?, subgraph })
}

struct Context<'a, 'm> {
    codes: &'m [OperatorCode],
    buffers: &'m [Option<Range<usize>>],
    bytes: &'a [u8],
}

impl<'a> Context<'a, '_> {
    fn subgraph(
        &self,
        table: Table<'a>,
        allowance: &mut Allowance,
    ) -> Result<SubGraph<'a>, SchemaError> {
        allowance.take(16)?;
        let mut tensors = Vec::new();
        for (i, tensor) in table.tables(0)?.iter().enumerate() {
            let tensor = tensor.map_err(SchemaError::from).and_then(|t| self.tensor(t, allowance));
            tensors.push(tensor.map_err(|e| e.within(format_args!("tensor {i}")))?);
        }
        let count = tensors.len();
        let mut operators = Vec::new();
        for (i, operator) in table.tables(3)?.iter().enumerate() {
            let operator = operator
                .map_err(SchemaError::from)
                .and_then(|t| self.operator(t, count, allowance));
            operators.push(operator.map_err(|e| e.within(format_args!("operator {i}")))?);
        }
        let name = table.string(4)?;
        allowance.take(name.len())?;
        let inputs = indices(table.vector(1)?, count, allowance)?;
        let outputs = indices(table.vector(2)?, count, allowance)?;
        Ok(SubGraph { name, tensors, inputs, outputs, operators })
    }

    fn operator(
        &self,
        table: Table<'a>,
        tensors: usize,
        allowance: &mut Allowance,
    ) -> Result<Operator<'a>, SchemaError> {
        allowance.take(12)?;
        let code = table.scalar(0, 0u32)? as usize;
        let Some(known) = self.codes.get(code) else {
            return Err(SchemaError::content(format!("operator code {code} does not exist")));
        };
        let read = || -> Result<Operator<'a>, SchemaError> {
            let inputs: Vector<'_, i32> = table.vector(1)?;
            allowance.take(4 * inputs.len())?;
            let mut optional = Vec::with_capacity(inputs.len());
            for index in inputs.iter() {
                optional.push(match index {
                    -1 => None,
                    _ => Some(index_within(index, tensors)?),
                });
            }
            Ok(Operator {
                code,
                inputs: optional,
                outputs: indices(table.vector(2)?, tensors, allowance)?,
                intermediates: indices(table.vector(8)?, tensors, allowance)?,
                options: table.table(4)?,
                options_2: table.table(12)?,
                custom_options: self.custom_options(table)?,
            })
        };
        let mut read = read;
        read().map_err(|e| e.within(known.name()))
    }

    fn custom_options(&self, table: Table<'a>) -> Result<&'a [u8], SchemaError> {
        let (offset, size) = (table.scalar(9, 0u64)?, table.scalar(10, 0u64)?);
        if offset <= 1 {
            return Ok(table.vector::<u8>(5)?.bytes());
        }
        let start = usize::try_from(offset).ok();
        let end = offset.checked_add(size).and_then(|end| usize::try_from(end).ok());
        start
            .zip(end)
            .and_then(|(start, end)| self.bytes.get(start..end))
            .ok_or_else(|| SchemaError::content("custom options lie outside the file"))
    }

    fn tensor(&self, table: Table<'a>, allowance: &mut Allowance) -> Result<Tensor, SchemaError> {
        let name = table.string(3)?;
        allowance.take(16 + name.len())?;
        let label = name.clone();
        self.named_tensor(table, name, allowance).map_err(|e| e.within(format_args!("'{label}'")))
    }

    fn named_tensor(
        &self,
        table: Table<'a>,
        name: String,
        allowance: &mut Allowance,
    ) -> Result<Tensor, SchemaError> {
        let dtype = TensorType::from_code(i32::from(table.scalar(1, 0i8)?))?;
        let stored: Vector<'_, i32> = table.vector(0)?;
        let signature: Vector<'_, i32> = table.vector(7)?;
        allowance.take(4 * (stored.len() + signature.len()))?;
        if !signature.is_empty() && signature.len() != stored.len() {
            return Err(SchemaError::content("its shape and its shape signature differ in rank"));
        }
        let mut shape = Vec::with_capacity(stored.len());
        let mut elements = 1usize;
        for size in stored.iter() {
            // A few writers mark a free dimension in the shape itself.
            let size = if size == -1 { 1 } else { size };
            let size = usize::try_from(size)
                .map_err(|_| SchemaError::content(format!("negative size {size} in its shape")))?;
            elements = elements
                .checked_mul(size.max(1))
                .filter(|&e| e <= MAX_ELEMENTS)
                .ok_or_else(|| {
                    SchemaError::content("its shape has more elements than the format can index")
                })?;
            shape.push(size);
        }
        if shape.contains(&0) {
            elements = 0;
        }
        let mut signature: Vec<i32> = signature.iter().collect();
        if signature.is_empty() && stored.iter().any(|size| size == -1) {
            signature = stored.iter().collect();
        }
        let buffer = table.scalar(2, 0u32)? as usize;
        let data = match self.buffers.get(buffer) {
            Some(range) => range.clone(),
            None if buffer == 0 => None,
            None => {
                return Err(SchemaError::content(format!("buffer {buffer} does not exist")));
            }
        };
        let sparsity = table.table(6)?.map(|t| sparsity(t, allowance)).transpose()?;
        if let (Some(data), Some(bits), None) = (&data, dtype.bits(), &sparsity) {
            let want = (elements * bits).div_ceil(8);
            if data.len() < want {
                return Err(SchemaError::content(format!(
                    "its shape needs {want} bytes, its buffer {buffer} at byte {} holds {}",
                    data.start,
                    data.len()
                )));
            }
        }
        let data = data.map(|data| match (dtype.bits(), &sparsity) {
            (Some(bits), None) => data.start..data.start + (elements * bits).div_ceil(8),
            _ => data,
        });
        let quantization = match table.table(4)? {
            Some(t) => quantization(t, &shape, allowance)?,
            None => None,
        };
        let is_variable = table.scalar(5, false)?;
        Ok(Tensor { name, dtype, shape, signature, data, quantization, is_variable, sparsity })
    }
}

fn index_within(index: i32, count: usize) -> Result<usize, SchemaError> {
    let valid = usize::try_from(index).ok().filter(|&index| index < count);
    valid.ok_or_else(|| {
        SchemaError::content(format!("tensor {index} does not exist; there are {count}"))
    })
}

fn indices(
    list: Vector<'_, i32>,
    count: usize,
    allowance: &mut Allowance,
) -> Result<Vec<usize>, SchemaError> {
    allowance.take(4 * list.len())?;
    list.iter().map(|index| index_within(index, count)).collect()
}

fn quantization(
    table: Table<'_>,
    shape: &[usize],
    allowance: &mut Allowance,
) -> Result<Option<Arc<Quant>>, SchemaError> {
    if table.scalar(4, 0u8)? != 0 {
        return Err(SchemaError::content(
            "its quantization is of a custom, blockwise or multi-axis kind; only affine quantization is supported",
        ));
    }
    let scale: Vector<'_, f32> = table.vector(2)?;
    let zero_point: Vector<'_, i64> = table.vector(3)?;
    if scale.is_empty() {
        return Ok(None);
    }
    allowance.take(scale.len().saturating_mul(4) + zero_point.len().saturating_mul(8))?;
    let axis = table.scalar(6, 0i32)?;
    let scale: Vec<f32> = scale.iter().collect();
    let narrow = |zero: i64| {
        i32::try_from(zero)
            .map_err(|_| SchemaError::content(format!("its zero point {zero} exceeds 32 bits")))
    };
    let zero_point: Vec<i32> = match zero_point.len() {
        0 => vec![0; scale.len()],
        _ => {
            let mut narrowed = Vec::with_capacity(zero_point.len());
            for zero in zero_point.iter() {
                narrowed.push(narrow(zero)?);
            }
            narrowed
        }
    };
    if zero_point.len() != scale.len() && zero_point.len() != 1 {
        return Err(SchemaError::content(format!(
            "its quantization has {} scales and {} zero points",
            scale.len(),
            zero_point.len()
        )));
    }
    let zero_point =
        if zero_point.len() == 1 { vec![zero_point[0]; scale.len()] } else { zero_point };
    if let Some(bad) = scale.iter().find(|s| !s.is_finite() || **s < 0.0) {
        return Err(SchemaError::content(format!(
            "its quantization scale {bad} is not a positive number"
        )));
    }
    // One scale belongs to no dimension, and biases repeat the dimension of their weights.
    let axis = if scale.len() == 1 || shape.len() == 1 { 0 } else { axis };
    let axis = usize::try_from(axis).ok().filter(|&axis| axis < shape.len().max(1));
    let axis =
        axis.ok_or_else(|| SchemaError::content("its quantized dimension does not exist"))?;
    if scale.len() > 1 && shape.get(axis) != Some(&scale.len()) {
        return Err(SchemaError::content(format!(
            "it has {} scales for dimension {axis} of its shape {shape:?}",
            scale.len()
        )));
    }
    let axis = (scale.len() > 1).then_some(axis);
    Ok(Some(Arc::new(Quant { scale, zero_point, axis })))
}

fn sparsity(table: Table<'_>, allowance: &mut Allowance) -> Result<Sparsity, SchemaError> {
    let unsigned =
        |list: Vector<'_, i32>, allowance: &mut Allowance| -> Result<Vec<usize>, SchemaError> {
            allowance.take(4 * list.len())?;
            let negative = |_| SchemaError::content("its sparsity holds a negative number");
            list.iter().map(|v| usize::try_from(v).map_err(negative)).collect()
        };
    let indices = |table: Option<Table<'_>>,
                   kind: u8,
                   allowance: &mut Allowance|
     -> Result<Vec<usize>, SchemaError> {
        let Some(table) = table else {
            return Err(SchemaError::content("its sparsity lacks an index list"));
        };
        match kind {
            1 => unsigned(table.vector(0)?, allowance),
            2 => {
                let list: Vector<'_, u16> = table.vector(0)?;
                allowance.take(2 * list.len())?;
                Ok(list.iter().map(usize::from).collect())
            }
            3 => {
                let list: Vector<'_, u8> = table.vector(0)?;
                allowance.take(list.len())?;
                Ok(list.iter().map(usize::from).collect())
            }
            _ => {
                Err(SchemaError::content(format!("its sparsity has an unknown index kind {kind}")))
            }
        }
    };
    let mut dims = Vec::new();
    for dim in table.tables(2)?.iter() {
        let dim = dim?;
        allowance.take(8)?;
        dims.push(match dim.scalar(0, 0u8)? {
            0 => {
                let size = dim.scalar(1, 0i32)?;
                SparseDim::Dense(usize::try_from(size).map_err(|_| {
                    SchemaError::content(format!("its sparsity has the negative size {size}"))
                })?)
            }
            1 => SparseDim::Csr {
                segments: indices(dim.table(3)?, dim.scalar(2, 0u8)?, allowance)?,
                indices: indices(dim.table(5)?, dim.scalar(4, 0u8)?, allowance)?,
            },
            other => {
                return Err(SchemaError::content(format!(
                    "its sparsity has the unknown format {other}"
                )));
            }
        });
    }
    Ok(Sparsity {
        traversal_order: unsigned(table.vector(0)?, allowance)?,
        block_map: unsigned(table.vector(1)?, allowance)?,
        dims,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small_model() -> Option<Vec<u8>> {
        Some(std::fs::read(kinglet_testing::model("tiny/hello_world_int8.tflite")?).unwrap())
    }

    #[test]
    fn reads_every_test_model() {
        let Some(models) = kinglet_testing::models() else {
            return;
        };
        let mut read_files = 0;
        for folder in ["tiny", "vision"] {
            for entry in std::fs::read_dir(models.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|e| e == "tflite") {
                    let bytes = std::fs::read(&path).unwrap();
                    let model = read(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                    assert!(!model.subgraphs[0].operators.is_empty());
                    read_files += 1;
                }
            }
        }
        assert!(read_files >= 22, "{read_files}");
    }

    #[test]
    fn reads_what_the_file_says() {
        let Some(bytes) = small_model() else { return };
        let model = read(&bytes).unwrap();
        let graph = &model.subgraphs[0];
        let names: Vec<_> = graph.operators.iter().map(|o| model.codes[o.code].name()).collect();
        assert_eq!(names, ["FULLY_CONNECTED"; 3]);
        let input = &graph.tensors[graph.inputs[0]];
        assert_eq!((input.dtype, input.shape.as_slice()), (TensorType::Int8, [1, 1].as_slice()));
        assert_eq!(input.quantization.as_ref().unwrap().zero_point, [-128]);
    }

    #[test]
    fn truncations_and_corruptions_never_panic() {
        let Some(bytes) = small_model() else { return };
        for cut in (0..bytes.len()).step_by(13) {
            let _ = read(&bytes[..cut]);
        }
        let mut random = kinglet_testing::Rng::new(7);
        for _ in 0..20_000 {
            let mut bad = bytes.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bad.len());
                bad[at] = random.below(256) as u8;
            }
            let _ = read(&bad);
        }
    }

    #[test]
    fn errors_say_where() {
        let Some(bytes) = small_model() else { return };
        assert_eq!(
            read(b"GGUF").unwrap_err().to_string(),
            "byte 4: the file identifier is missing"
        );
        let cut = read(&bytes[..bytes.len() / 2]).unwrap_err().to_string();
        assert!(cut.contains("byte "), "{cut}");
    }
}
