/* How long decoding takes: time FILE TIMES prints the seconds of each time, from the bytes in memory to all elements.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../metaq.h"

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static metaq_status decode(metaq_source source, size_t *size) {
    metaq_reader reader;
    metaq_status status;
    void *block = NULL;
    for (;;) {
        status = metaq_open(&reader, source, block, block ? *size : 0);
        if (status != METAQ_MEMORY && (status != METAQ_OK || reader.needed <= *size)) break;
        *size = reader.needed;
        free(block);
        block = malloc(*size);
    }
    while (status == METAQ_OK && (status = metaq_next(&reader)) == METAQ_OK) {
        void *out = malloc(reader.tensor->elements * reader.tensor->element_size + 1);
        status = metaq_read_all(&reader, METAQ_ELEMENTS, out);
        free(out);
    }
    free(block);
    return status == METAQ_END ? METAQ_OK : status;
}

int main(int count, char **arguments) {
    FILE *file = count == 3 ? fopen(arguments[1], "rb") : NULL;
    size_t size = 0, block = 0;
    void *bytes;
    int left;
    if (!file || fseek(file, 0, SEEK_END)) return 2;
    size = (size_t)ftell(file);
    rewind(file);
    bytes = malloc(size + 1);
    if (fread(bytes, 1, size, file) != size) return 2;
    for (left = atoi(arguments[2]); left > 0; left--) {
        const double begun = seconds();
        const metaq_status status = decode(metaq_in_memory(bytes, size), &block);
        if (status != METAQ_OK) {
            fprintf(stderr, "%s\n", metaq_sentence(status));
            return 1;
        }
        printf("%.4f\n", seconds() - begun);
    }
    return 0;
}
