//! However a text is cut into steps, whatever else is in them, and whichever way a sequence came by
//! what it holds: what follows is the same.

use kinglet_lm::sample::best;
use kinglet_lm::{Cache, Guess, LanguageModel, LmError, Options, Piece, Session, Wanted};
use kinglet_testing::{Rng, model};
use std::path::Path;

const STORIES: &str = "lm/tinystories-260k-f32.gguf";

/// Attention of all kinds, mixtures, recurrent layers, and both: of the test models, and the
/// repository's own by their whole paths.
const MODELS: [&str; 10] = [
    STORIES,
    "arch/gemma2-dense.gguf",
    "arch/qwen3moe-moe.gguf",
    "arch/smallthinker-moe.gguf",
    "arch/mamba-dense.gguf",
    "arch/mamba2-dense.gguf",
    "arch/lfm2-dense.gguf",
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gguf/qwen35.gguf"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gguf/deepseek2-q.gguf"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gguf/gpt-oss.gguf"),
];

fn open(path: &Path, cache: Cache) -> LanguageModel {
    let options =
        Options { context: Some(128), sequences: 5, cache, threads: 2, ..Options::default() };
    LanguageModel::open(path, &options).unwrap()
}

/// `n` random tokens, the same for the same seed.
fn tokens(model: &LanguageModel, seed: u64, n: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(model.vocabulary()) as u32).collect()
}

/// Logits of every token of `tokens`, after what `sequence` holds.
fn all(model: &mut LanguageModel, sequence: usize, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    model.extend(sequence, tokens, Wanted::All, |_, l| rows.push(l.to_vec())).unwrap();
    assert_eq!(rows.len(), tokens.len());
    rows
}

/// Logits of every token, computed from the start.
fn fresh(model: &mut LanguageModel, tokens: &[u32]) -> Vec<Vec<f32>> {
    let sequence = model.open_sequence().unwrap();
    let rows = all(model, sequence, tokens);
    model.close_sequence(sequence);
    rows
}

#[track_caller]
fn near(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-4, "{what}: logit {i} is {f}, not {e}");
    }
}

#[track_caller]
fn all_near(what: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        near(&format!("{what}, row {i}"), f, e);
    }
}

/// `n` greedy tokens.
fn greedy(model: &mut LanguageModel, sequence: usize, first: u32, n: usize) -> Vec<u32> {
    let mut tokens = vec![first];
    while tokens.len() < n {
        let next = tokens[tokens.len() - 1];
        let mut chosen = None;
        model.extend(sequence, &[next], Wanted::Last, |_, l| chosen = best(l)).unwrap();
        tokens.push(chosen.unwrap());
    }
    tokens
}

#[test]
fn chunking_and_company_change_nothing() {
    for name in MODELS {
        let Some(path) = model(name) else { return };
        let mut model = open(&path, Cache::F16);
        let text = tokens(&model, 1, 90);
        let whole = model.open_sequence().unwrap();
        let expected = all(&mut model, whole, &text);
        let first = best(&expected[89]).unwrap();
        let said = greedy(&mut model, whole, first, 30);
        model.close_sequence(whole);
        for size in [1, 7, 64] {
            let sequence = model.open_sequence().unwrap();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                found.extend(all(&mut model, sequence, chunk));
            }
            all_near(&format!("{name} in chunks of {size}"), &found, &expected);
            assert_eq!(greedy(&mut model, sequence, first, 30), said, "{name}");
            model.close_sequence(sequence);
        }
        // With three others, of other lengths and in other parts, which are right too.
        let others: Vec<_> = [20, 3, 70].map(|n| tokens(&model, n as u64, n)).into();
        let alone: Vec<_> = others.iter().map(|t| fresh(&mut model, t)).collect();
        let places: Vec<usize> = (0..4).map(|_| model.open_sequence().unwrap()).collect();
        let mut found = vec![Vec::new(); 4];
        for (from, to) in [(0, 1), (1, 40), (40, 90)] {
            let part = |t: &[u32]| t[from.min(t.len())..to.min(t.len())].to_vec();
            let parts: Vec<Vec<u32>> =
                others[..1].iter().chain([&text]).chain(&others[1..]).map(|t| part(t)).collect();
            let pieces: Vec<_> = (0..4)
                .map(|i| Piece { sequence: places[i], tokens: &parts[i], wanted: Wanted::All })
                .collect();
            let take = |piece: usize, i: usize, l: &[f32]| {
                assert_eq!(i, found[piece].len() - from.min(found[piece].len()));
                found[piece].push(l.to_vec());
            };
            model.extend_batch(&pieces, take).unwrap();
        }
        all_near(&format!("{name} with others"), &found[1], &expected);
        for (i, place) in [0, 2, 3].into_iter().enumerate() {
            all_near(&format!("{name}, another"), &found[place], &alone[i]);
        }
        // Decoding side by side.
        let mut next = [first; 4];
        let mut sides = vec![first];
        while sides.len() < 30 {
            let one: Vec<[u32; 1]> = next.iter().map(|t| [*t]).collect();
            let pieces: Vec<_> = (0..4)
                .map(|i| Piece { sequence: places[i], tokens: &one[i], wanted: Wanted::Last })
                .collect();
            model.extend_batch(&pieces, |i, _, l| next[i] = best(l).unwrap()).unwrap();
            sides.push(next[1]);
        }
        assert_eq!(sides, said, "{name}");
    }
}

#[test]
fn forks_truncations_and_rewrites_compute_what_a_start_does() {
    for name in MODELS {
        let Some(path) = model(name) else { return };
        let mut model = open(&path, Cache::F16);
        let (text, other) = (tokens(&model, 1, 75), tokens(&model, 2, 20));
        let expected = fresh(&mut model, &text);
        let with_other = |n: usize| [&text[..n], &other[..]].concat();

        // A fork goes its own way, and what it came from does not see it.
        let a = model.open_sequence().unwrap();
        all(&mut model, a, &text[..50]);
        let b = model.fork_sequence(a).unwrap();
        let found = all(&mut model, b, &other);
        all_near(name, &found, &fresh(&mut model, &with_other(50))[50..]);
        let found = all(&mut model, a, &text[50..]);
        all_near(name, &found, &expected[50..]);
        model.close_sequence(b);

        // Back to an earlier position, or to none where the model can't.
        for n in [64, 33, 1] {
            let left = model.truncate(a, n);
            assert!(left == n || (left == 0 && model.stepper().recurrent()), "{name}: {left}");
            let found = all(&mut model, a, &with_other(n)[left..]);
            all_near(name, &found[n - left..], &fresh(&mut model, &with_other(n))[n..]);
        }
        model.close_sequence(a);

        // A session computes only what is new.
        let mut session = Session::new(&mut model).unwrap();
        session.push(&text);
        assert_eq!(session.compute(&mut model).unwrap(), 75);
        assert_eq!(session.compute(&mut model).unwrap(), 0);
        near(name, session.logits(), &expected[74]);
        session.rewrite(&mut model, with_other(60));
        let computed = session.compute(&mut model).unwrap();
        assert_eq!(computed, if model.stepper().recurrent() { 80 } else { 20 }, "{name}");
        near(name, session.logits(), &fresh(&mut model, &with_other(60))[79]);
        // To a part of itself: the logits are of its end, not of what was said before.
        session.rewrite(&mut model, text[..60].to_vec());
        session.compute(&mut model).unwrap();
        near(name, session.logits(), &expected[59]);
        // More of the same: a turn that goes on.
        session.rewrite(&mut model, text[..70].to_vec());
        assert_eq!(session.compute(&mut model).unwrap(), 10, "{name}");
        near(name, session.logits(), &expected[69]);
        let mut second = session.fork(&mut model).unwrap();
        second.push(&text[70..]);
        assert_eq!(second.compute(&mut model).unwrap(), 5, "{name}");
        near(name, second.logits(), &expected[74]);
        near(name, session.logits(), &expected[69]);
    }
}

/// A random tree of `n` guesses, some of which begin anew.
fn tree(model: &LanguageModel, rng: &mut Rng, n: usize) -> Vec<Guess> {
    (0..n)
        .map(|i| Guess {
            token: rng.below(model.vocabulary()) as u32,
            parent: (i > 0 && rng.below(5) > 0).then(|| rng.below(i)),
        })
        .collect()
}

/// The guesses from the first to guess `i`.
fn path_to(tree: &[Guess], i: usize) -> Vec<usize> {
    let mut path: Vec<usize> = std::iter::successors(Some(i), |i| tree[*i].parent).collect();
    path.reverse();
    path
}

#[test]
fn trees_of_guesses_are_as_many_sequences() {
    for (cache, name) in [
        (Cache::F16, STORIES),
        (Cache::F32, "arch/gemma2-dense.gguf"),
        (Cache::F16, "arch/smallthinker-moe.gguf"),
    ] {
        let Some(path) = model(name) else { return };
        let mut model = open(&path, cache);
        let mut rng = Rng::new(3);
        for held in [0, 7, 31, 60] {
            let text = tokens(&model, 4, held);
            let guesses = tree(&model, &mut rng, 20);
            let mut expected = Vec::new();
            for i in 0..guesses.len() {
                let said = path_to(&guesses, i).into_iter().map(|g| guesses[g].token);
                let said: Vec<u32> = text.iter().copied().chain(said).collect();
                expected.extend(fresh(&mut model, &said).pop());
            }
            let kept = path_to(&guesses, rng.below(20));
            let sequence = model.open_sequence().unwrap();
            all(&mut model, sequence, &text);
            // A fork shares the last page, which the tree must not write.
            let fork = model.fork_sequence(sequence).unwrap();
            let mut found = Vec::new();
            let keep = |logits: &[&[f32]]| {
                found = logits.iter().map(|l| l.to_vec()).collect();
                kept.clone()
            };
            model.extend_tree(sequence, &guesses, keep).unwrap();
            all_near(&format!("{name}, tree after {held}"), &found, &expected);
            // The sequence goes on from the path, and the fork from before it.
            assert_eq!(model.length(sequence), held + kept.len());
            let said: Vec<u32> = kept.iter().map(|g| guesses[*g].token).collect();
            let rest = tokens(&model, 5, 9);
            let whole = [&text[..], &said, &rest].concat();
            let found = all(&mut model, sequence, &rest);
            all_near(name, &found, &fresh(&mut model, &whole)[held + said.len()..]);
            let found = all(&mut model, fork, &rest);
            all_near(name, &found, &fresh(&mut model, &[&text[..], &rest].concat())[held..]);
            model.close_sequence(sequence);
            model.close_sequence(fork);
        }
    }
}

#[test]
fn what_is_no_tree_or_no_path_is_refused_and_changes_nothing() {
    let Some(path) = model(STORIES) else { return };
    let mut model = open(&path, Cache::F16);
    let sequence = model.open_sequence().unwrap();
    let text = tokens(&model, 1, 40);
    let expected = fresh(&mut model, &text);
    all(&mut model, sequence, &text[..20]);
    let guess = |token, parent| Guess { token, parent };
    let good = [guess(3, None), guess(4, Some(0)), guess(5, Some(0))];
    let says = |r: Result<(), LmError>, what: &str| {
        let e = r.unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    says(model.extend_tree(sequence, &[guess(3, Some(0))], |_| vec![]), "must be before it");
    says(model.extend_tree(sequence, &[guess(9999, None)], |_| vec![]), "token 9999");
    says(model.extend_tree(sequence, &[guess(1, None); 257], |_| vec![]), "at most 256");
    says(model.extend_tree(sequence, &[guess(1, None); 109], |_| vec![]), "context of 128");
    for path in [vec![1], vec![0, 0], vec![1, 2], vec![0, 3], vec![0, 1, 2]] {
        says(model.extend_tree(sequence, &good, |_| path), "no path");
        assert_eq!(model.length(sequence), 20);
    }
    model.extend_tree(sequence, &good, |_| vec![]).unwrap();
    let found = all(&mut model, sequence, &text[20..]);
    all_near("after what was refused", &found, &expected[20..]);

    let pieces = [Piece { sequence, tokens: &[1], wanted: Wanted::Last }; 2];
    says(model.extend_batch(&pieces, |_, _, _| {}), "comes twice");
    says(model.extend(77, &[1], Wanted::Last, |_, _| {}), "not open");
    let Some(path) = kinglet_testing::model("arch/lfm2-dense.gguf") else { return };
    let mut model = open(&path, Cache::F16);
    let sequence = model.open_sequence().unwrap();
    says(model.extend_tree(sequence, &good, |_| vec![]), "recurrent");
}

/// The largest difference, as a part of the spread.
fn difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let all = || expected.iter().flatten().copied();
    let spread = all().fold(f32::MIN, f32::max) - all().fold(f32::MAX, f32::min);
    let worst = found.iter().flatten().zip(all()).map(|(a, b)| (a - b).abs());
    // NaN must not hide.
    worst.fold(0.0, |m, d| if d <= m { m } else { d }) / spread
}

#[test]
fn smaller_caches_cost_little() {
    let Some(models) = kinglet_testing::models() else { return };
    let (mut blocks, mut refused) = (0, 0);
    let names = std::fs::read_dir(models.join("arch")).unwrap().map(|e| e.unwrap().path());
    for path in names.filter(|p| p.extension().is_some_and(|e| e == "gguf")) {
        let name = path.file_stem().unwrap().to_string_lossy().to_string();
        let mut plain = open(&path, Cache::F32);
        let text = tokens(&plain, 1, 60);
        let expected = fresh(&mut plain, &text);
        let off = difference(&fresh(&mut open(&path, Cache::F16), &text), &expected);
        assert!(off < 2e-3, "{name} f16: {off}");
        let options = Options { context: Some(64), cache: Cache::Q8_0, ..Options::default() };
        match LanguageModel::open(&path, &options) {
            Ok(mut small) => {
                blocks += 1;
                let found = fresh(&mut small, &text);
                let off = difference(&found, &expected);
                println!("{name} q8_0: {off:.1e}");
                assert!(off < 0.05, "{name} q8_0: {off}");
                // What is rounded is rounded as it is taken in, however the text is cut.
                let sequence = small.open_sequence().unwrap();
                let cut: Vec<_> =
                    text.chunks(7).flat_map(|c| all(&mut small, sequence, c)).collect();
                all_near(&format!("{name} q8_0 in chunks"), &cut, &found);
            }
            Err(e) => {
                refused += 1;
                assert!(e.to_string().contains("can't be held as q8_0"), "{name}: {e}");
            }
        }
    }
    println!("{blocks} in blocks, {refused} refused");
    assert!(blocks > 3);
}
