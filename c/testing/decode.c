/* Decodes the files whose paths come on standard input, a line each, and says what is in them, a line each: the number
   of the status, then of every tensor in the order of the names, after spaces, its name in hexadecimal digits, the
   number of its type, its sizes and the checksum of its elements.

       decode memory|callback|rows|partial [size of the block in bytes]
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../metaq.h"

#ifdef WITH_ZSTD
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

static int decode_frame(void *user, const uint8_t *frame, size_t size, uint8_t *out, size_t out_size) {
    ZSTD_DCtx *context = ZSTD_createDCtx();
    size_t found;
    (void)user;
    ZSTD_DCtx_setParameter(context, ZSTD_d_format, ZSTD_f_zstd1_magicless);
    found = ZSTD_decompressDCtx(context, out, out_size, frame, size);
    ZSTD_freeDCtx(context);
    return ZSTD_isError(found) || found != out_size;
}
#elif defined(STUB_ZSTD)

/* Where the library is missing: zeros, so that all other tensors can be compared. */
static int decode_frame(void *user, const uint8_t *frame, size_t size, uint8_t *out, size_t out_size) {
    (void)user, (void)frame, (void)size;
    memset(out, 0, out_size);
    return 0;
}
#endif

enum { MOST_BYTES = 1 << 26, ROW = 37 };

static void *owned(size_t size) {
    void *found = calloc(size ? size : 1, 1);
    if (!found) exit(3);
    return found;
}

static int read_file(void *user, size_t position, uint8_t *out, size_t size) {
    return fseek(user, (long)position, SEEK_SET) || fread(out, 1, size, user) != size;
}

static uint32_t checksum(const uint8_t *bytes, size_t size) {
    uint32_t crc = 0xffffffff;
    int k;
    for (; size > 0; size--) {
        crc ^= *bytes++;
        for (k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* All elements of the tensor, part by part. */
static metaq_status read_by_rows(metaq_reader *reader, uint8_t *out) {
    const size_t size = reader->tensor->element_size;
    uint8_t *row = owned(ROW * size);
    metaq_span span;
    metaq_status status;
    size_t i;
    while ((status = metaq_read(reader, METAQ_ELEMENTS, row, ROW, &span)) == METAQ_OK)
        for (i = 0; i < span.count; i++) memcpy(out + (span.start + i * span.stride) * size, row + i * size, size);
    free(row);
    return status == METAQ_END ? METAQ_OK : status;
}

/* Opens and reads all tensors; what they hold is left in `found`. */
static metaq_status read_tensors(metaq_reader *reader, metaq_source source, uint8_t *block, size_t size, int by_rows,
                                 uint8_t ***found) {
    metaq_status status = metaq_open(reader, source, block, size);
    size_t i, total = 0;
    for (i = 0; i < reader->count; i++) total += reader->tensors[i].elements * reader->tensors[i].element_size;
    if (status == METAQ_OK && total > MOST_BYTES) return METAQ_TOO_LARGE;
    *found = owned(reader->count * sizeof **found);
    while (status == METAQ_OK && (status = metaq_next(reader)) == METAQ_OK) {
        const metaq_tensor *tensor = reader->tensor;
        uint8_t *out = owned(tensor->elements * tensor->element_size);
        for (i = 0; metaq_tensor_at(reader, i) != tensor; i++) continue;
        (*found)[i] = out;
        status = by_rows ? read_by_rows(reader, out) : metaq_read_all(reader, METAQ_ELEMENTS, out);
    }
    return status == METAQ_END ? METAQ_OK : status;
}

static void say(const metaq_reader *reader, uint8_t **found) {
    size_t i, k;
    for (i = 0; i < reader->count; i++) {
        const metaq_tensor *tensor = metaq_tensor_at(reader, i);
        const size_t held = tensor->tied_to < 0 ? i : (size_t)tensor->tied_to;
        printf(" ");
        for (k = 0; k < tensor->name_size; k++) printf("%02x", (unsigned)(uint8_t)tensor->name[k]);
        printf(":%d:", (int)tensor->type);
        for (k = 0; k < tensor->dimensions; k++) printf("%s%lu", k ? "," : "", (unsigned long)tensor->shape[k]);
        printf(":%lu", (unsigned long)checksum(found[held], tensor->elements * tensor->element_size));
    }
}

static void release(const metaq_reader *reader, uint8_t **found) {
    size_t i;
    for (i = 0; found && i < reader->count; i++) free(found[i]);
    free(found);
}

static void decode(const char *path, const char *way, size_t given) {
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL, **found = NULL, *block;
    metaq_reader reader;
    metaq_source source;
    metaq_status status;
    size_t file_size, size = given;
    if (!file || fseek(file, 0, SEEK_END)) exit(2);
    file_size = (size_t)ftell(file);
    memset(&source, 0, sizeof source);
    if (strcmp(way, "memory") == 0) {
        bytes = owned(file_size);
        if (read_file(file, 0, bytes, file_size)) exit(2);
        source = metaq_in_memory(bytes, file_size);
    } else {
        source.size = file_size;
        source.read = read_file;
        source.user = file;
        source.is_partial = strcmp(way, "partial") == 0;
    }
#if defined(WITH_ZSTD) || defined(STUB_ZSTD)
    source.zstd = decode_frame;
#endif
    for (;;) {
        block = owned(size);
        status = read_tensors(&reader, source, block, size, strcmp(way, "rows") == 0, &found);
        if (given || status != METAQ_MEMORY || reader.needed <= size) break;
        release(&reader, found);
        found = NULL;
        free(block);
        size = reader.needed;
    }
    printf("%d", (int)status);
    if (status == METAQ_OK) say(&reader, found);
    printf("\n");
    release(&reader, found);
    free(block);
    free(bytes);
    fclose(file);
}

int main(int count, char **arguments) {
    char path[4096];
    if (count < 2) return 2;
    while (fgets(path, sizeof path, stdin)) {
        path[strcspn(path, "\n")] = 0;
        decode(path, arguments[1], count > 2 ? (size_t)strtoul(arguments[2], NULL, 10) : 0);
    }
    return 0;
}
