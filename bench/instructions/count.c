// A QEMU plugin that counts the instructions that a program executes, function by function: at exit
// it writes to `out=FILE` a line "COUNT SYMBOL" for each, with "?" where the program names none.
//
// Debian has no header for plugins, so what is used of API version 1 (QEMU 4.2 to 8.2) is declared
// here; https://www.qemu.org/docs/master/devel/tcg-plugins.html describes it.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum operation { ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum operation, void *, uint64_t);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct function {
    struct function *next;
    uint64_t count;
    char name[];
};

enum { BUCKETS = 4096 };
static struct function *functions[BUCKETS];
static FILE *out;

static struct function *find(const char *name) {
    unsigned hash = 5381;
    for (const char *c = name; *c; c++) hash = 33 * hash + (unsigned char)*c;
    struct function **bucket = &functions[hash % BUCKETS];
    for (struct function *f = *bucket; f; f = f->next)
        if (!strcmp(f->name, name)) return f;
    struct function *f = calloc(1, sizeof *f + strlen(name) + 1);
    if (!f) abort();
    strcpy(f->name, name);
    f->next = *bucket;
    return *bucket = f;
}

// A translated block runs from its first to its last instruction, so it is counted as one.
static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    const char *symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
    struct function *f = find(symbol && *symbol ? symbol : "?");
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &f->count, qemu_plugin_tb_n_insns(block));
}

static void done(plugin_id id, void *data) {
    (void)id, (void)data;
    for (int i = 0; i < BUCKETS; i++)
        for (struct function *f = functions[i]; f; f = f->next)
            if (f->count) fprintf(out, "%llu %s\n", (unsigned long long)f->count, f->name);
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(
    plugin_id id, const void *info, int count, char **arguments) {
    (void)info;
    if (count != 1 || strncmp(arguments[0], "out=", 4) || !(out = fopen(arguments[0] + 4, "w"))) {
        fprintf(stderr, "count.c: out=FILE names a file to write\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, done, NULL);
    return 0;
}
