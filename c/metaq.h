/*
 * A decoder of .metaq files, version 1, as docs/format.md describes them, in C99.
 *
 * It needs no library but <stdint.h>, <stddef.h> and <string.h>, asks for no memory but the block that it is given, and
 * does not recurse. Whatever is wrong with a file is a status that metaq_sentence puts into words.
 *
 *     static uint64_t block[8192];
 *     metaq_reader reader;
 *     metaq_status status = metaq_open(&reader, metaq_in_memory(bytes, size), block, sizeof block);
 *     while (status == METAQ_OK && (status = metaq_next(&reader)) == METAQ_OK) {
 *         const metaq_tensor *tensor = reader.tensor;
 *         metaq_span span;
 *         while ((status = metaq_read(&reader, METAQ_FLOATS, row, room, &span)) == METAQ_OK) use(tensor, row, span);
 *         if (status == METAQ_END) status = METAQ_OK;
 *     }
 *
 * Compile with -ffp-contract=off where the machine has fused multiply-add. What a device does not need is left out by:
 *
 * - METAQ_SMALL_MEMORY: tables of the coder small hold what is used alone, and others are computed anew; many times
 * slower
 * - METAQ_NO_BASIS: tensors with a basis are refused
 * - METAQ_NO_TRELLIS: tensors with a trellis are refused
 * - METAQ_NO_FAST: the coder fast is refused
 * - METAQ_NO_PLANES: exact tensors in planes are refused
 *
 * With METAQ_UPDATES, updates are read, too; an update that is read reads its base, one call deeper.
 */
#ifndef METAQ_H
#define METAQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum metaq_status {
    METAQ_OK,
    METAQ_END,        /* nothing is left: no tensor, or no element of the tensor */
    METAQ_NO_FILE,    /* the bytes are no .metaq file */
    METAQ_NEWER,      /* the file needs a newer reader */
    METAQ_DAMAGED,    /* the file is damaged, cut short, or was not made by metaq */
    METAQ_TOO_LARGE,  /* tensors have more elements than this machine can count */
    METAQ_MEMORY,     /* the block is too small; `needed` of the reader tells how many bytes would do */
    METAQ_UNREADABLE, /* the source could not be read */
    METAQ_IS_UPDATE,  /* the file tells a model by another one */
    METAQ_ZSTD,       /* a tensor is a Zstandard frame, and there is no function that decodes them */
    METAQ_LEFT_OUT,   /* the file has what this build leaves out */
    METAQ_NO_UPDATE,  /* the file is a model, and needs no base */
    METAQ_OTHER_BASE, /* the update is of another model than the base */
    METAQ_MISUSED     /* a function was called in a way that it is not made for */
} metaq_status;

/* In the order of their numbers in files. */
typedef enum metaq_type {
    METAQ_FLOAT32,
    METAQ_FLOAT16,
    METAQ_BFLOAT16,
    METAQ_FLOAT64,
    METAQ_INT8,
    METAQ_UINT8,
    METAQ_INT16,
    METAQ_INT32,
    METAQ_INT64,
    METAQ_BOOL,
    METAQ_UINT16,
    METAQ_UINT32,
    METAQ_UINT64,
    METAQ_COMPLEX64,
    METAQ_COMPLEX128,
    METAQ_FLOAT8_E4M3FN,
    METAQ_FLOAT8_E5M2
} metaq_type;

typedef enum metaq_format {
    METAQ_ELEMENTS, /* elements of the tensor's type, little-endian */
    METAQ_FLOATS,   /* float, of tensors of float32, float16, bfloat16 or float8 */
    METAQ_INTEGERS  /* int32_t n, of quantised tensors without basis that are not added to a base: the element is
                       (center + radius * n / buckets) times scales */
} metaq_format;

/* How elements are reached. */
typedef struct metaq_source {
    const uint8_t *bytes; /* the whole file, or NULL if it is read by `read` */
    size_t size;          /* of the file in bytes */
    int (*read)(void *user, size_t position, uint8_t *out, size_t size); /* fills `out`; not 0 if that fails */
    void *user;
    /* Decodes a Zstandard frame without magic number to exactly `out_size` bytes; not 0 if that fails. NULL if there is
     * none. */
    int (*zstd)(void *user, const uint8_t *frame, size_t size, uint8_t *out, size_t out_size);
    int is_partial; /* the file need not be there as a whole yet: the checksum at its end is not compared */
} metaq_source;

typedef struct metaq_tensor {
    const char *name; /* UTF-8, with a 0 behind it */
    size_t name_size; /* in bytes, without the 0 */
    const size_t *shape;
    size_t elements;
    uint32_t dimensions;
    uint32_t element_size; /* in bytes */
    metaq_type type;
    int32_t tied_to;  /* number of the tensor that has its elements, or -1; metaq_next passes over tied ones */
    uint32_t buckets; /* of the grid; 0 of tensors that are kept exactly */
    double center, radius;
    const uint8_t *scales; /* codes of rows, then of columns, for metaq_factor; or NULL */
    /* What follows is the reader's own. */
    const uint8_t *elements_in_header;
    uint32_t coder, chunk, next, basis;
    uint32_t in_base; /* number of the tensor of the base that tells it */
    uint8_t storage, trellis_bits, by_columns, relation;
} metaq_tensor;

/* Elements `start`, `start + stride`, … of a tensor in C order. */
typedef struct metaq_span {
    size_t start, stride, count;
} metaq_span;

typedef struct metaq_metadatum {
    const char *key; /* UTF-8, no 0 behind it */
    size_t key_size;
    int kind; /* 0 text, 1 integer, 2 float64 */
    const char *text;
    size_t text_size;
    int64_t integer;
    double number;
} metaq_metadatum;

typedef struct metaq_reader {
    const metaq_tensor *tensor; /* the one that metaq_next or metaq_select came to */
    size_t count;               /* of tensors */
    size_t needed;              /* bytes of the block that are enough for the file, as far as it is read */
    size_t most_used;           /* bytes of the block that were in use at most */
    size_t slots_used;          /* with METAQ_SMALL_MEMORY: slots of the coder small that were in use at most */
    /* What follows is the reader's own. */
    metaq_source source;
    uint8_t *block;
    size_t size, used, kept;
    const uint8_t *header, *header_end, *metadata;
    metaq_tensor *tensors;
    struct metaq_chunk *chunks;
    struct metaq_basis *bases;
    struct metaq_decoder *decoder;
    uint32_t *crc_table;
    size_t basis_count, chunk_count, metadata_count;
    size_t body, checksums; /* places of what follows the header */
    uint8_t coder, chunk_bits;
    size_t position; /* of the next element in the order of the scan */
    size_t next_tensor, next_chunk;
    uint32_t next_stream, trellis_state;
    int32_t *scratch, *row;
    int16_t *narrow_row;
    int has_bases, is_in_chunk, is_counting;
    metaq_status status;
    /* of an update */
    struct metaq_reader *base;
    uint8_t *base_elements, *whole;
    int8_t *hints;
    uint32_t *removed, base_held;
    size_t removed_count;
} metaq_reader;

/* A file that is in memory as a whole, and stays there. NULL is a file without bytes, which metaq_open refuses. */
metaq_source metaq_in_memory(const void *bytes, size_t size);

/* Reads the header. The block is aligned for uint64_t and belongs to the reader from now on. If it is too small,
   `needed` tells how many bytes get further; after METAQ_OK, how many are enough for all tensors. */
metaq_status metaq_open(metaq_reader *reader, metaq_source source, void *block, size_t size);

#ifdef METAQ_UPDATES

/* Reads the header of an update of the model that `base` has opened, no update itself. Both stay where they are; while
   the update is read, the base is, too, and comes to other tensors. All tensors of both are decoded once, as an update
   of another base, and one that gives another model than it says, are refused. The reader has the tensors in which the
   model differs from the base, as they are in the model; all others are those of the base but for removed ones. Files
   that the model carries are not told. */
metaq_status metaq_open_update(metaq_reader *reader, metaq_source source, metaq_reader *base, void *block, size_t size);

/* Which reader has a tensor of the model, that of an update or its base, and its number there; NULL if there is none.
 */
metaq_reader *metaq_find(metaq_reader *reader, const char *name, size_t name_size, size_t *number);

#endif

/* Tensor `number`, from 0 in the order of the names; NULL if there is none. */
const metaq_tensor *metaq_tensor_at(const metaq_reader *reader, size_t number);

/* Metadatum `number` in the order of the keys. */
metaq_status metaq_metadata(const metaq_reader *reader, size_t number, metaq_metadatum *found);

/* Goes on to the next tensor in the order in which they are stored, which needs the least work and memory. */
metaq_status metaq_next(metaq_reader *reader);

/* Goes to a tensor; what stands before it in its chunk is decoded and dropped. */
metaq_status metaq_select(metaq_reader *reader, size_t number);

/* The bytes of the file that hold the elements of a tensor, as far as it does not stand in the header. */
metaq_status metaq_range(const metaq_reader *reader, size_t number, size_t *position, size_t *size);

/* The next elements of the tensor, at most `most`, and where they belong: a row, or a part of one; of a tensor that is
   stored by columns, of a column. METAQ_END if none are left. */
metaq_status metaq_read(metaq_reader *reader, metaq_format format, void *out, size_t most, metaq_span *span);

/* All elements of the tensor, in C order. */
metaq_status metaq_read_all(metaq_reader *reader, metaq_format format, void *out);

/* What an element is multiplied by: the product of the factors of its first and its second index. */
double metaq_factor(const metaq_tensor *tensor, size_t element);

/* What a status says, and what to do about it. */
const char *metaq_sentence(metaq_status status);

#ifdef __cplusplus
}
#endif

#endif
