/* Decodes a file to standard output: of every tensor in the order of the names, a line of its name, type, shape and
   size in bytes, then its elements. Of a file that is refused, one line to standard error, and the status as exit code.

       decode FILE [memory | callback | rows] [block size in bytes]
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
#endif

static int read_file(void *user, size_t position, uint8_t *out, size_t size) {
    return fseek(user, (long)position, SEEK_SET) || fread(out, 1, size, user) != size;
}

static void fail(metaq_status status) {
    fprintf(stderr, "%s\n", metaq_sentence(status));
    exit(10 + (int)status);
}

static void *owned(size_t size) {
    void *found = malloc(size ? size : 1);
    if (!found) exit(3);
    return found;
}

int main(int count, char **arguments) {
    const char *way = count > 2 ? arguments[2] : "memory";
    size_t size = count > 3 ? (size_t)atol(arguments[3]) : 0, i, file_size;
    FILE *file = fopen(arguments[1], "rb");
    uint8_t *bytes = NULL, **found, *block;
    metaq_reader reader;
    metaq_source source;
    metaq_status status;
    if (!file) return 2;
    fseek(file, 0, SEEK_END);
    file_size = (size_t)ftell(file);
    fseek(file, 0, SEEK_SET);
    memset(&source, 0, sizeof source);
    if (strcmp(way, "memory") == 0) {
        bytes = owned(file_size);
        if (fread(bytes, 1, file_size, file) != file_size) return 2;
        source = metaq_in_memory(bytes, file_size);
    } else {
        source.size = file_size;
        source.read = read_file;
        source.user = file;
    }
#ifdef WITH_ZSTD
    source.zstd = decode_frame;
#endif
    block = owned(size);
again:
    for (;;) {
        status = metaq_open(&reader, source, block, size);
        if (count > 3 || (status != METAQ_MEMORY && (status != METAQ_OK || reader.needed <= size))) break;
        size = reader.needed;
        free(block);
        block = owned(size);
    }
    if (status) fail(status);
    found = owned(reader.count * sizeof *found);
    memset(found, 0, reader.count * sizeof *found);
    while ((status = metaq_next(&reader)) == METAQ_OK) {
        const metaq_tensor *tensor = reader.tensor;
        uint8_t *out = owned(tensor->elements * tensor->element_size);
        for (i = 0; metaq_tensor_at(&reader, i) != tensor; i++) continue;
        found[i] = out;
        if (strcmp(way, "rows") == 0) {
            metaq_span span;
            uint8_t *row = owned(16 * 37);
            while ((status = metaq_read(&reader, METAQ_ELEMENTS, row, 37, &span)) == METAQ_OK) {
                for (i = 0; i < span.count; i++)
                    memcpy(out + (span.start + i * span.stride) * tensor->element_size, row + i * tensor->element_size,
                           tensor->element_size);
            }
            free(row);
            if (status == METAQ_END) status = METAQ_OK;
        } else {
            status = metaq_read_all(&reader, METAQ_ELEMENTS, out);
        }
        if (status) break;
    }
    if (status == METAQ_MEMORY && count <= 3 && reader.needed > size) {
        for (i = 0; i < reader.count; i++) free(found[i]);
        free(found);
        free(block);
        size = reader.needed;
        block = owned(size);
        goto again;
    }
    if (status != METAQ_END) fail(status);
    for (i = 0; i < reader.count; i++) {
        const metaq_tensor *tensor = metaq_tensor_at(&reader, i);
        size_t k;
        fwrite(tensor->name, 1, tensor->name_size, stdout);
        printf("\t%d\t", (int)tensor->type);
        for (k = 0; k < tensor->dimensions; k++) printf("%s%zu", k ? "," : "", tensor->shape[k]);
        printf("\t%zu\n", tensor->elements * tensor->element_size);
        fwrite(found[tensor->tied_to < 0 ? i : (size_t)tensor->tied_to], tensor->element_size, tensor->elements,
               stdout);
    }
    fprintf(stderr, "needed %zu, used %zu, slots %zu\n", reader.needed, reader.most_used, reader.slots_used);
    for (i = 0; i < reader.count; i++) free(found[i]);
    free(found);
    free(block);
    free(bytes);
    fclose(file);
    return 0;
}
