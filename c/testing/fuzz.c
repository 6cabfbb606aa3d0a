/* Reads whatever bytes a fuzzer makes up, in every way, with memory of a size that they choose too.

       python c/testing/corpus.py FOLDER [--updates]
       clang -g -O2 -fsanitize=fuzzer,address,undefined -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
           [-DMETAQ_PLAIN_HEADER] [-DMETAQ_UPDATES] c/metaq.c c/testing/fuzz.c

   Checksums are not compared, as no fuzzer finds them, and with METAQ_PLAIN_HEADER the header stands in the file as it
   is. Bytes are: one that chooses how the file is read, then the file. With METAQ_UPDATES, two tell the size of a base,
   which follows, and then an update of it.
*/
#include <stdlib.h>
#include <string.h>

#include "../metaq.h"

#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#error "say -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION, or hardly anything passes the checksums"
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef ASAN_POISON_MEMORY_REGION
#define ASAN_POISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#endif

enum { MOST_ELEMENTS = 1 << 13, MOST_BLOCK = 1 << 23, GUARD = 1 << 12, PART = 61 };

/* The decoder's memory is one for all files: to get and give back megabytes thousands of times a second is slow, and
   some systems count what was given back as used. What lies behind the part in use may not be touched. */
static uint64_t arenas[2][(MOST_BLOCK + GUARD) / sizeof(uint64_t)];

typedef struct held {
    const uint8_t *bytes;
    size_t size;
} held;

static metaq_status open_in_arena(metaq_reader *reader, metaq_source source, metaq_reader *base, size_t room) {
    static size_t guarded[2];
    const int number = base != NULL;
    uint8_t *block = (uint8_t *)arenas[number];
    ASAN_UNPOISON_MEMORY_REGION(block + guarded[number], GUARD);
    ASAN_POISON_MEMORY_REGION(block + room, GUARD);
    guarded[number] = room;
#ifdef METAQ_UPDATES
    if (base) return metaq_open_update(reader, source, base, block, room);
#endif
    return metaq_open(reader, source, block, room);
}

/* Opens a file, or an update of `base`, with as much memory as it needs if `way` says so; its elements are counted. */
static metaq_status open_by(metaq_reader *reader, metaq_source source, metaq_reader *base, int way, size_t *total) {
    const size_t room = 1 << 20;
    metaq_status status = open_in_arena(reader, source, base, room);
    size_t i;
    if (reader->needed > room && reader->needed <= MOST_BLOCK && way & 16)
        status = open_in_arena(reader, source, base, reader->needed);
    for (*total = i = 0; i < reader->count; i++) *total += metaq_tensor_at(reader, i)->elements;
    return status;
}

static int read_held(void *user, size_t position, uint8_t *out, size_t size) {
    const held *from = user;
    if (position > from->size || size > from->size - position) abort();
    memcpy(out, from->bytes + position, size);
    return 0;
}

/* Of a frame it is enough that all of it can be read, and all of the result written. */
static int pass_frame(void *user, const uint8_t *frame, size_t size, uint8_t *out, size_t out_size) {
    uint8_t sum = 0;
    size_t i;
    (void)user;
    for (i = 0; i < size; i++) sum = (uint8_t)(sum + frame[i]);
    memset(out, sum & 1, out_size);
    return sum == 7;
}

static void read_tensor(metaq_reader *reader, int way) {
    static const metaq_format FORMATS[] = {METAQ_ELEMENTS, METAQ_FLOATS, METAQ_INTEGERS};
    const metaq_tensor *tensor = reader->tensor;
    const metaq_format format = FORMATS[way % 3];
    uint8_t *part = malloc(PART * 16);
    metaq_span span;
    size_t total = 0;
    metaq_status status;
    while ((status = metaq_read(reader, format, part, PART, &span)) == METAQ_OK) {
        total += span.count;
        if (span.count == 0 || span.count > PART) abort();
        if (span.start + (span.count - 1) * span.stride >= tensor->elements) abort();
    }
    if (status == METAQ_END && total != tensor->elements) abort();
    free(part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    metaq_reader reader, *base = NULL;
    metaq_metadatum metadatum;
    metaq_source source;
    metaq_status status;
    held file;
    uint8_t *copy;
    size_t i, total = 0;
    int way;
    if (size < 1) return 0;
    way = *data++;
    size--;
#ifdef METAQ_UPDATES
    static metaq_reader of_base;
    uint8_t *base_copy;
    size_t base_size;
    if (size < 2) return 0;
    base_size = data[0] | (size_t)data[1] << 8;
    data += 2;
    size -= 2;
    if (base_size > size) base_size = size;
    base_copy = malloc(base_size ? base_size : 1);
    memcpy(base_copy, data, base_size);
    data += base_size;
    size -= base_size;
    base = &of_base;
    status = open_by(base, metaq_in_memory(base_copy, base_size), NULL, 16, &total);
    if (status != METAQ_OK || total > MOST_ELEMENTS) {
        free(base_copy);
        return 0;
    }
#endif
    file.size = size;
    /* A copy of just this size, so that every byte beyond is seen. */
    copy = malloc(file.size ? file.size : 1);
    memcpy(copy, data, file.size);
    file.bytes = copy;
    memset(&source, 0, sizeof source);
    if (way & 64) source.read = read_held;
    else source.bytes = copy;
    source.size = file.size;
    source.user = &file;
    source.zstd = way & 128 ? pass_frame : NULL;
    source.is_partial = way >> 5 & 1;
    status = open_by(&reader, source, base, way, &total);
    for (i = 0; status == METAQ_OK && metaq_metadata(&reader, i, &metadatum) == METAQ_OK; i++) continue;
    if (status == METAQ_OK && total <= MOST_ELEMENTS) {
        if (way & 8) {
            for (i = reader.count; i-- > 0 && metaq_select(&reader, i) == METAQ_OK;) read_tensor(&reader, way);
        } else {
            while (metaq_next(&reader) == METAQ_OK) read_tensor(&reader, way);
        }
    }
    if (!metaq_sentence(status)[0]) abort();
    free(copy);
#ifdef METAQ_UPDATES
    free(base_copy);
#endif
    return 0;
}
