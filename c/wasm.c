/* The decoder of metaq.c as WebAssembly: what web/metaq/wasm.js calls. build_wasm.sh compiles it.
 *
 * Memory is, one after the other: constants and the stack, the block of the reader, and the output. The page says how
 * large the last two are, and nothing else makes memory grow.
 */
#define METAQ_OWN_PRODUCT
#include <stddef.h>
#include <stdint.h>
#include <wasm_simd128.h>

static v128_t eight_products(const int16_t *left, const int16_t *right) {
    return wasm_i32x4_dot_i16x8(wasm_v128_load(left), wasm_v128_load(right));
}

/* Sum of products. Two sums grow side by side, so that none waits for the other. */
static int32_t narrow_product(const int16_t *left, const int16_t *right, size_t count) {
    v128_t sums = wasm_i32x4_const(0, 0, 0, 0), others = sums;
    size_t i;
    int32_t sum = 0;
    for (i = 0; i + 32 <= count; i += 32) {
        sums = wasm_i32x4_add(sums, eight_products(left + i, right + i));
        others = wasm_i32x4_add(others, eight_products(left + i + 8, right + i + 8));
        sums = wasm_i32x4_add(sums, eight_products(left + i + 16, right + i + 16));
        others = wasm_i32x4_add(others, eight_products(left + i + 24, right + i + 24));
    }
    sums = wasm_i32x4_add(sums, others);
    for (; i + 8 <= count; i += 8) sums = wasm_i32x4_add(sums, eight_products(left + i, right + i));
    for (; i < count; i++) sum += (int32_t)left[i] * right[i];
    return sum + wasm_i32x4_extract_lane(sums, 0) + wasm_i32x4_extract_lane(sums, 1) +
           wasm_i32x4_extract_lane(sums, 2) + wasm_i32x4_extract_lane(sums, 3);
}

#include "metaq.c"

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
#define PAGE ((size_t)1 << 16)

/* Bytes of the file from a place on, as many as are there and wanted; the page returns how many. */
IMPORT(read) extern size_t env_read(size_t position, uint8_t *out, size_t size);
/* Decodes a Zstandard frame; not 0 if that fails. */
IMPORT(zstd) extern int env_zstd(const uint8_t *frame, size_t size, uint8_t *out, size_t out_size);

extern uint8_t __heap_base;

static metaq_reader reader;
static size_t block_size;
static uint8_t window[PAGE]; /* of the file: fewer calls */
static size_t window_start, window_size;

/* ---- What the compiler takes for granted, and may not take for calls of itself */

#define OWN(name) __attribute__((no_builtin(#name)))

OWN(memcpy) void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    uint8_t *out = to;
    const uint8_t *in = from;
    for (; size > 0; size--) *out++ = *in++;
    return to;
}

OWN(memmove) void *memmove(void *to, const void *from, size_t size) {
    uint8_t *out = to;
    const uint8_t *in = from;
    if (out < in) {
        for (; size > 0; size--) *out++ = *in++;
    } else {
        for (; size > 0; size--) out[size - 1] = in[size - 1];
    }
    return to;
}

OWN(memset) void *memset(void *to, int value, size_t size) {
    uint8_t *out = to;
    for (; size > 0; size--) *out++ = (uint8_t)value;
    return to;
}

int memcmp(const void *left, const void *right, size_t size) {
    const uint8_t *a = left, *b = right;
    for (; size > 0; size--, a++, b++)
        if (*a != *b) return *a < *b ? -1 : 1;
    return 0;
}

OWN(strlen) size_t strlen(const char *text) {
    size_t size = 0;
    while (text[size]) size++;
    return size;
}

/* ---- The source */

static int read_window(void *user, size_t position, uint8_t *out, size_t size) {
    (void)user;
    if (position < window_start || position - window_start > window_size ||
        size > window_size - (position - window_start)) {
        if (size > sizeof window) return env_read(position, out, size) != size;
        window_start = position;
        window_size = env_read(position, window, least_size(sizeof window, reader.source.size - position));
        if (size > window_size) return 1;
    }
    memcpy(out, window + (position - window_start), size);
    return 0;
}

static int decode_by_page(void *user, const uint8_t *frame, size_t size, uint8_t *out, size_t out_size) {
    (void)user;
    return env_zstd(frame, size, out, out_size);
}

/* ---- What the page calls */

/* What the page is told of a tensor: twelve numbers of 32 bits. */
static struct {
    const char *name;
    size_t name_size;
    uint32_t type, element_size, dimensions;
    const size_t *shape;
    size_t elements;
    int32_t tied_to;
    uint32_t is_whole; /* whether it has to be read as a whole, since it is scanned by columns */
    uint32_t has_basis;
    size_t position, size; /* of its bytes in the file */
} facts;

static uint8_t *block_start(void) { return (uint8_t *)(((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15); }

/* Makes the block at least so large, and the output behind it; returns the output, or NULL if there is no memory. */
EXPORT(reserve) uint8_t *reserve(size_t block, size_t output) {
    const size_t there = __builtin_wasm_memory_size(0), start = (size_t)(uintptr_t)block_start();
    size_t pages;
    if (block > SIZE_MAX - start - PAGE || output > SIZE_MAX - start - PAGE - block) return NULL;
    if (block > block_size) block_size = (block + 15) & ~(size_t)15;
    pages = (start + block_size + output + PAGE - 1) / PAGE;
    if (pages > there && __builtin_wasm_memory_grow(0, pages - there) == SIZE_MAX) return NULL;
    return block_start() + block_size;
}

EXPORT(open) metaq_status open_file(size_t size, int is_partial) {
    metaq_source source;
    memset(&source, 0, sizeof source);
    source.size = size;
    source.read = read_window;
    source.zstd = decode_by_page;
    source.is_partial = is_partial;
    window_size = 0;
    return metaq_open(&reader, source, block_start(), block_size);
}

EXPORT(needed) size_t needed(void) { return reader.needed; }

EXPORT(tensors) size_t tensors(void) { return reader.count; }

EXPORT(chunks) size_t chunks(void) { return reader.chunk_count; }

/* Bytes that bases take as 64-bit numbers. */
EXPORT(basis_bytes) double basis_bytes(void) {
    double sum = 0;
    for (size_t i = 0; i < reader.basis_count; i++) sum += 8.0 * (double)reader.bases[i].stream.elements;
    return sum;
}

/* Where the bytes of the file begin and end that hold the bases, which come before all tensors. */
EXPORT(basis_start) size_t basis_start(void) { return reader.basis_count ? reader.chunks[0].position : 0; }

EXPORT(basis_end) size_t basis_end(void) {
    size_t chunk, end = 0;
    for (size_t i = 0; i < reader.basis_count; i++) {
        chunk = reader.bases[i].stream.chunk;
        do {
            const metaq_chunk *of = &reader.chunks[chunk++];
            if (of->position + of->size > end) end = of->position + of->size;
        } while (chunk < reader.chunk_count && reader.chunks[chunk].start > 0);
    }
    return end;
}

EXPORT(tensor) const void *tensor(size_t number) {
    const metaq_tensor *found = metaq_tensor_at(&reader, number);
    if (!found) return NULL;
    facts.name = found->name;
    facts.name_size = found->name_size;
    facts.type = found->type;
    facts.element_size = found->element_size;
    facts.dimensions = found->dimensions;
    facts.shape = found->shape;
    facts.elements = found->elements;
    facts.tied_to = found->tied_to;
    if (found->tied_to >= 0) found = metaq_tensor_at(&reader, (size_t)found->tied_to);
    facts.is_whole = found->by_columns;
    facts.has_basis = found->storage == QUANTISED && found->basis != NOWHERE && found->elements > 0;
    metaq_range(&reader, number, &facts.position, &facts.size);
    return &facts;
}

EXPORT(metadatum) const metaq_metadatum *metadatum(size_t number) {
    static metaq_metadatum found;
    return metaq_metadata(&reader, number, &found) == METAQ_OK ? &found : NULL;
}

EXPORT(select) metaq_status select_tensor(size_t number) { return metaq_select(&reader, number); }

/* All elements of the tensor. */
EXPORT(read_all) metaq_status read_all(uint8_t *out) { return metaq_read_all(&reader, METAQ_ELEMENTS, out); }

/* The next elements of a tensor that need not be read as a whole, or all that are left if they are fewer. */
EXPORT(read_next) metaq_status read_next(uint8_t *out, size_t most) {
    metaq_status status = METAQ_OK;
    metaq_span span;
    while (most > 0 && status == METAQ_OK) {
        status = metaq_read(&reader, METAQ_ELEMENTS, out, most, &span);
        if (status != METAQ_OK) break;
        out += span.count * reader.tensor->element_size;
        most -= span.count;
    }
    return status == METAQ_END ? METAQ_OK : status;
}

EXPORT(sentence) const char *sentence(metaq_status status) { return metaq_sentence(status); }
