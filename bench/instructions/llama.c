// llama.cpp's side of the instruction counts: crates/lm/examples/bench_language.rs tells the questions
// `prompt N` and `decode N`, and what is done for them. The answers tell no times.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

enum { PREFIX = 256, MOST = 4096 };

static struct llama_context *context;
static int32_t vocabulary;
// The conversation that the context holds.
static llama_token held[MOST];
static int count;

static void fail(const char *what) {
    fprintf(stderr, "llama.c: %s\n", what);
    exit(1);
}

static void silent(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

static void extend(const llama_token *tokens, int n) {
    if (count + n > MOST) fail("the conversation is too long");
    memcpy(held + count, tokens, n * sizeof *tokens);
    if (llama_decode(context, llama_batch_get_one(held + count, n))) fail("llama.cpp failed to decode");
    count += n;
}

// Makes `tokens` the conversation and computes those that are not held, the last anew.
static void rewrite(const llama_token *tokens, int n) {
    int same = 0;
    while (same < count && same < n - 1 && held[same] == tokens[same]) same++;
    llama_memory_seq_rm(llama_get_memory(context), 0, same, -1);
    count = same;
    extend(tokens + same, n - same);
}

static llama_token best(void) {
    const float *logits = llama_get_logits_ith(context, -1);
    llama_token best = 0;
    for (int32_t i = 1; i < vocabulary; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

int main(int words, char **word) {
    if (words != 4) fail("usage: llama MODEL THREADS CONTEXT");
    llama_log_set(silent, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(word[1], llama_model_default_params());
    if (!model) fail("llama.cpp can't load the model");
    struct llama_context_params parameters = llama_context_default_params();
    parameters.n_threads = parameters.n_threads_batch = atoi(word[2]);
    parameters.n_ctx = parameters.n_batch = atoi(word[3]);
    parameters.n_ubatch = parameters.n_batch < 512 ? parameters.n_batch : 512;
    context = llama_init_from_model(model, parameters);
    if (!context) fail("llama.cpp can't make a context");
    vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));

    static llama_token prompt[MOST];
    for (int i = 0; i < MOST; i++) prompt[i] = (5 + i * 7919 % 20000) % vocabulary;
    extend(prompt, 16);
    puts("0");
    char kind[16];
    int n;
    while (scanf("%15s %d", kind, &n) == 2) {
        if (n < 1 || n > MOST) fail("so many tokens can't be");
        if (!strcmp(kind, "prompt")) {
            llama_memory_clear(llama_get_memory(context), true);
            count = 0;
            extend(prompt, n);
            printf("%d\n", best());
        } else if (!strcmp(kind, "decode")) {
            rewrite(prompt, PREFIX);
            for (int i = 0; i < n; i++) {
                llama_token token = best();
                extend(&token, 1);
                printf("%d%c", token, i + 1 < n ? ' ' : '\n');
            }
        } else fail("the questions are prompt N and decode N");
    }
    return 0;
}
