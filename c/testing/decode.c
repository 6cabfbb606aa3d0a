/* Decodes the files whose paths come on standard input, a line each, and says what is in them, a line each: the number
   of the status, then of every tensor in the order of the names, after spaces, its name in hexadecimal digits, the
   number of its type, its sizes and the checksum of its elements. With METAQ_UPDATES a line may have two paths with a
   tabulator between: a base and an update, of which the model is told that they make.

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

/* All tensors of an open reader; what they hold is left in `found`. */
static metaq_status read_tensors(metaq_reader *reader, int by_rows, uint8_t ***found) {
    metaq_status status = METAQ_OK;
    size_t i, total = 0;
    for (i = 0; i < reader->count; i++) total += reader->tensors[i].elements * reader->tensors[i].element_size;
    if (total > MOST_BYTES) return METAQ_TOO_LARGE;
    *found = owned(reader->count * sizeof **found);
    while ((status = metaq_next(reader)) == METAQ_OK) {
        const metaq_tensor *tensor = reader->tensor;
        uint8_t *out = owned(tensor->elements * tensor->element_size);
        for (i = 0; metaq_tensor_at(reader, i) != tensor; i++) continue;
        (*found)[i] = out;
        status = by_rows ? read_by_rows(reader, out) : metaq_read_all(reader, METAQ_ELEMENTS, out);
        if (status != METAQ_OK) return status;
    }
    return status == METAQ_END ? METAQ_OK : status;
}

static void say(const metaq_reader *reader, uint8_t **found, size_t i) {
    const metaq_tensor *tensor = metaq_tensor_at(reader, i);
    const size_t held = tensor->tied_to < 0 ? i : (size_t)tensor->tied_to;
    size_t k;
    printf(" ");
    for (k = 0; k < tensor->name_size; k++) printf("%02x", (unsigned)(uint8_t)tensor->name[k]);
    printf(":%d:", (int)tensor->type);
    for (k = 0; k < tensor->dimensions; k++) printf("%s%lu", k ? "," : "", (unsigned long)tensor->shape[k]);
    printf(":%lu", (unsigned long)checksum(found[held], tensor->elements * tensor->element_size));
}

static void release(const metaq_reader *reader, uint8_t **found) {
    size_t i;
    for (i = 0; found && i < reader->count; i++) free(found[i]);
    free(found);
}

/* A file and what is read of it. */
typedef struct opened {
    FILE *file;
    uint8_t *bytes, *block, **found;
    metaq_reader reader;
} opened;

static metaq_source source_of(opened *of, const char *path, const char *way) {
    metaq_source source;
    size_t size;
    memset(of, 0, sizeof *of);
    of->file = fopen(path, "rb");
    if (!of->file || fseek(of->file, 0, SEEK_END)) exit(2);
    size = (size_t)ftell(of->file);
    memset(&source, 0, sizeof source);
    if (strcmp(way, "memory") == 0) {
        of->bytes = owned(size);
        if (read_file(of->file, 0, of->bytes, size)) exit(2);
        source = metaq_in_memory(of->bytes, size);
    } else {
        source.size = size;
        source.read = read_file;
        source.user = of->file;
        source.is_partial = strcmp(way, "partial") == 0;
    }
#if defined(WITH_ZSTD) || defined(STUB_ZSTD)
    source.zstd = decode_frame;
#endif
    return source;
}

/* Opens a file, or an update of `base`, and reads all of it, with a block of a size or of the least that is enough. */
static metaq_status read_all(opened *of, metaq_source source, opened *base, const char *way, size_t given) {
    metaq_reader *reader = &of->reader;
    metaq_status status;
    size_t size = given;
    (void)base;
    for (;;) {
        of->block = owned(size);
#ifdef METAQ_UPDATES
        if (base) status = metaq_open_update(reader, source, &base->reader, of->block, size);
        else
#endif
            status = metaq_open(reader, source, of->block, size);
        if (status == METAQ_OK) status = read_tensors(reader, strcmp(way, "rows") == 0, &of->found);
        if (given || status != METAQ_MEMORY || reader->needed <= size) return status;
        release(reader, of->found);
        of->found = NULL;
        free(of->block);
        /* What the coder small needs at small memory is known only step by step. */
        size = reader->needed < size + size / 2 ? size + size / 2 : reader->needed;
    }
}

static void close_file(opened *of) {
    release(&of->reader, of->found);
    free(of->block);
    free(of->bytes);
    fclose(of->file);
}

static void decode(const char *path, const char *way, size_t given) {
    opened of;
    const metaq_source source = source_of(&of, path, way);
    const metaq_status status = read_all(&of, source, NULL, way, given);
    size_t i;
    printf("%d", (int)status);
    for (i = 0; status == METAQ_OK && i < of.reader.count; i++) say(&of.reader, of.found, i);
    printf("\n");
    close_file(&of);
}

#ifdef METAQ_UPDATES

/* Whether a tensor comes from where metaq_find finds it. */
static int is_of(metaq_reader *update, metaq_reader *holder, size_t i) {
    const metaq_tensor *tensor = &holder->tensors[i];
    size_t number;
    return metaq_find(update, tensor->name, tensor->name_size, &number) == holder && number == i;
}

/* The model that an update makes of a base. */
static void apply(const char *base_path, const char *path, const char *way, size_t given) {
    opened base, of;
    const metaq_source base_source = source_of(&base, base_path, way), source = source_of(&of, path, way);
    metaq_status status = read_all(&base, base_source, NULL, way, 0);
    size_t i = 0, own = 0;
    if (status == METAQ_OK) status = read_all(&of, source, &base, way, given);
    printf("%d", (int)status);
    while (status == METAQ_OK && (i < base.reader.count || own < of.reader.count)) {
        const metaq_tensor *old = metaq_tensor_at(&base.reader, i), *new = metaq_tensor_at(&of.reader, own);
        /* Names end in a 0, and have none inside here. */
        const int order = !old ? 1 : !new ? -1 : strcmp(old->name, new->name);
        if (order < 0 && is_of(&of.reader, &base.reader, i)) say(&base.reader, base.found, i);
        if (order >= 0 && is_of(&of.reader, &of.reader, own)) say(&of.reader, of.found, own);
        i += order <= 0;
        own += order >= 0;
    }
    printf("\n");
    close_file(&of);
    close_file(&base);
}

#endif

int main(int count, char **arguments) {
    char path[4096];
    if (count < 2) return 2;
    while (fgets(path, sizeof path, stdin)) {
        const size_t block = count > 2 ? (size_t)strtoul(arguments[2], NULL, 10) : 0;
        path[strcspn(path, "\n")] = 0;
#ifdef METAQ_UPDATES
        if (strchr(path, '\t')) {
            char *update = strchr(path, '\t');
            *update++ = 0;
            apply(path, update, arguments[1], block);
            continue;
        }
#endif
        decode(path, arguments[1], block);
    }
    return 0;
}
