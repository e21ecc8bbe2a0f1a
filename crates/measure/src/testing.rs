//! A made-up device for tests.

use crate::profile::{CoreRate, PeakRate, Profile, Rate, ReadRate};
use crate::system::{Cache, Identity, Kind, System};

pub(crate) fn system() -> System {
    System {
        identity: Identity { model: "Made-up CPU".into(), usable: 2 },
        cpus: vec![0, 1],
        kinds: vec![Kind { cpus: vec![0, 1], part: None, max_mhz: None, capacity: Some(1024) }],
        caches: vec![Cache { level: 1, bytes: 32 << 10, shared_by: 1, count: 2 }],
    }
}

pub(crate) fn profile() -> Profile {
    let rate = |best| Rate { best, median: best * 0.9 };
    let peak = |isa: &str, arithmetic: &str, threads, best| PeakRate {
        isa: isa.into(),
        arithmetic: arithmetic.into(),
        threads,
        gmac_s: rate(best),
    };
    let read = |threads, bytes, best| ReadRate { threads, bytes, gb_s: rate(best) };
    let core = |cpu| CoreRate {
        cpu,
        int8_gmac_s: rate(100.0),
        f32_gmac_s: rate(50.0),
        read_gb_s: rate(25.0),
    };
    Profile {
        cores: vec![core(0), core(1)],
        peaks: vec![
            peak("portable", "int8", 1, 5.0),
            peak("portable", "int8", 2, 10.0),
            peak("portable", "f32", 1, 2.5),
            peak("portable", "f32", 2, 5.0),
            peak("avx2", "int8", 1, 100.0),
            peak("avx2", "int8", 2, 200.0),
            peak("avx2", "f32", 1, 50.0),
            peak("avx2", "f32", 2, 100.0),
        ],
        memory: vec![read(1, 256 << 20, 25.0), read(2, 256 << 20, 40.0)],
        reads: vec![
            read(1, 16 << 10, 200.0),
            read(1, 1 << 20, 60.0),
            read(2, 16 << 10, 400.0),
            read(2, 1 << 20, 120.0),
        ],
        convolutions: Vec::new(),
        seconds: 1.0,
        ..Profile::unmeasured(&system())
    }
}

/// A graph of products: 4×64 by 64×32, then twice by 32×32, then their softmax.
pub(crate) fn two_products() -> kinglet_graph::Graph {
    use kinglet_graph::ops::matmul::MatMul;
    use kinglet_graph::ops::softmax::Softmax;
    use kinglet_graph::{DType, Graph, Tensor, ValueType};
    let mut graph = Graph::new("products");
    let mut x = graph.add_input("x", ValueType::new(DType::F32, &[4, 64][..]));
    for (name, depth) in [("up", 64), ("blk.0.down", 32), ("blk.1.down", 32)] {
        let data = vec![0.01f32; depth * 32];
        let w = graph.add_constant("", Tensor::from_slice(&[depth, 32], &data).unwrap());
        let y = graph.add_value("", ValueType::new(DType::F32, &[4, 32][..]));
        graph.add_node(name, MatMul::default(), vec![Some(x), Some(w)], vec![y]);
        x = y;
    }
    let y = graph.add_value("", ValueType::new(DType::F32, &[4, 32][..]));
    graph.add_node("softmax", Softmax::new(-1), vec![Some(x)], vec![y]);
    graph.outputs.push(y);
    graph
}
