//! The model graph: values, ops, shapes, encodings, state; each op's meaning in one place.
