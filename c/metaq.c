/* A decoder of .metaq files, version 1: see metaq.h. Comments name sections of docs/format.md. */
#include "metaq.h"

#include <string.h>

#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "double must be evaluated as double: compile with -msse2 -mfpmath=sse or the like"
#endif

#ifdef METAQ_SMALL_MEMORY
#define IS_SMALL 1
#else
#define IS_SMALL 0
#endif

#ifdef METAQ_UPDATES
#define HAS_UPDATES 1
#else
#define HAS_UPDATES 0
#endif

/* Where size counts, functions are not unrolled into their callers; shared ones never. */
#if IS_SMALL || defined(__OPTIMIZE_SIZE__)
#define IS_SHORT 1
#else
#define IS_SHORT 0
#endif

#if defined(__GNUC__) && !IS_SHORT
#define INLINE static inline __attribute__((always_inline))
#define SHARED INLINE
#elif defined(__GNUC__)
#define INLINE static inline
#define SHARED static __attribute__((noinline))
#else
#define INLINE static inline
#define SHARED INLINE
#endif

#if defined(__GNUC__)
#define RARELY(condition) __builtin_expect(!!(condition), 0)
#else
#define RARELY(condition) (condition)
#endif

/* Symbols that are decoded at once. */
#define SCRATCH (IS_SMALL ? 64 : 512)
#define LARGEST_LOGIT 3072
#define CLIPPED_LOGIT 3071
#define ONE_40 ((uint64_t)1 << 40)
#define WHOLE ((int64_t)1 << 28)

/* Symbols, and what is found of them. */
#if IS_SMALL
typedef int32_t number;
#else
typedef int64_t number;
#endif

INLINE number least(number a, number b) { return a < b ? a : b; }
SHARED size_t least_size(size_t a, size_t b) { return a < b ? a : b; }
INLINE uint32_t least_digits(uint32_t a, uint32_t b) { return a < b ? a : b; }
INLINE number largest(number a, number b) { return a > b ? a : b; }
SHARED int clip(int64_t value, int low, int high) { return value < low ? low : value > high ? high : (int)value; }
SHARED number magnitude_of(number value) { return value < 0 ? -value : value; }
SHARED int size_of(int value) { return value < 0 ? -value : value; }
SHARED int sign_of(int value) { return (value > 0) - (value < 0); }

/* Number of binary digits. */
SHARED int digits_of(uint32_t value) {
#if defined(__GNUC__)
    return value ? 32 - __builtin_clz(value) : 0;
#else
    int digits = 0;
    for (; value; value >>= 1) digits++;
    return digits;
#endif
}

/* ---- Memory: the block, from its start. What is kept comes first, what a chunk needs after it. */

static metaq_status refuse(metaq_reader *reader, metaq_status status) {
    if (reader->status == METAQ_OK) reader->status = status;
    return reader->status;
}

static int is_well(const metaq_reader *reader) { return reader->status == METAQ_OK; }

/* Room for `count` things of `size` bytes, zeros; NULL if there is none, or while counting alone. */
static void *room(metaq_reader *reader, size_t count, size_t size) {
    const size_t bytes = (count * size + 7) & ~(size_t)7, end = reader->used + bytes;
    void *found;
    if (!is_well(reader)) return NULL;
    if (count > SIZE_MAX / 2 / size || end < bytes) {
        refuse(reader, METAQ_TOO_LARGE);
        return NULL;
    }
    if (end > reader->needed) reader->needed = end;
    if (end > reader->size && !reader->is_counting) {
        refuse(reader, METAQ_MEMORY);
        return NULL;
    }
    found = reader->is_counting ? NULL : reader->block + reader->used;
    reader->used = end;
    if (!found) return NULL;
    if (end > reader->most_used) reader->most_used = end;
    memset(found, 0, bytes);
    return found;
}

/* ---- Bytes: of the file, and of fields in memory */

static void fetch(metaq_reader *reader, size_t position, uint8_t *out, size_t size) {
    const metaq_source *source = &reader->source;
    if (position > source->size || size > source->size - position) refuse(reader, METAQ_DAMAGED);
    else if (source->bytes) memcpy(out, source->bytes + position, size);
    else if (source->read(source->user, position, out, size)) refuse(reader, METAQ_UNREADABLE);
    if (!is_well(reader)) memset(out, 0, size);
}

/* Bytes of the file, read one after the other; those missing at the end are zero and are counted. */
typedef struct input {
    metaq_reader *reader;
    const uint8_t *next, *end;
    size_t position, left; /* of what is not in the window yet */
    uint32_t missing;
    uint8_t window[64];
} input;

static void start_input(input *in, metaq_reader *reader, size_t position, size_t size) {
    in->reader = reader;
    in->missing = 0;
    if (reader->source.bytes) {
        in->next = reader->source.bytes + position;
        in->end = in->next + size;
        in->left = 0;
    } else {
        in->next = in->end = in->window;
        in->left = size;
    }
    in->position = position;
}

static uint8_t further_byte(input *in) {
    const size_t size = least_size(in->left, sizeof in->window);
    if (size == 0) {
        in->missing++;
        return 0;
    }
    fetch(in->reader, in->position, in->window, size);
    in->position += size;
    in->left -= size;
    in->next = in->window + 1;
    in->end = in->window + size;
    return in->window[0];
}

INLINE uint8_t next_byte(input *in) { return in->next < in->end ? *in->next++ : further_byte(in); }

static int is_at_end(const input *in) { return in->next == in->end && in->left == 0; }

/* A part of memory that is read field by field. */
typedef struct cursor {
    const uint8_t *next, *end;
    int is_bad;
} cursor;

static const uint8_t *take(cursor *at, size_t size) {
    const uint8_t *found = at->next;
    if (at->is_bad || size > (size_t)(at->end - at->next)) {
        at->is_bad = 1;
        return NULL;
    }
    at->next += size;
    return found;
}

static uint8_t byte_of(cursor *at) {
    const uint8_t *found = take(at, 1);
    return found ? *found : 0;
}

static uint64_t varint_of(cursor *at) {
    uint64_t value = 0;
    int group;
    for (group = 0; group < 9; group++) {
        uint8_t byte = byte_of(at);
        value |= (uint64_t)(byte & 127) << (7 * group);
        if (byte < 128) {
            if (byte == 0 && group > 0) at->is_bad = 1;
            return at->is_bad ? 0 : value;
        }
    }
    at->is_bad = 1;
    return 0;
}

static size_t varint_up_to(cursor *at, size_t most) {
    uint64_t value = varint_of(at);
    if (value > most) at->is_bad = 1;
    return at->is_bad ? 0 : (size_t)value;
}

#ifndef METAQ_NO_FAST

/* Fields of bits, most significant bit first. */
typedef struct bits {
    cursor *at;
    uint8_t waiting;
    int left;
} bits;

static int bit_of(bits *from) {
    if (from->left == 0) {
        from->waiting = byte_of(from->at);
        from->left = 8;
    }
    from->left--;
    return from->waiting >> from->left & 1;
}

static uint64_t bits_of(bits *from, int count) {
    uint64_t value = 0;
    while (count-- > 0) value = 2 * value + (uint64_t)bit_of(from);
    return value;
}

static uint64_t golomb_of(bits *from, int order) {
    int zeros = 0;
    while (!bit_of(from)) {
        if (from->at->is_bad || ++zeros + order >= 53) {
            from->at->is_bad = 1;
            return 0;
        }
    }
    return ((uint64_t)1 << (zeros + order)) + bits_of(from, zeros + order) - ((uint64_t)1 << order);
}

static void end_bits(bits *from) {
    if (from->waiting & ((1 << from->left) - 1)) from->at->is_bad = 1;
}

#endif

#if !defined(METAQ_NO_FAST) || !defined(METAQ_NO_PLANES)

/* Bits, least significant first. */
typedef struct low_bits {
    cursor *at;
    uint64_t waiting;
    int left;
} low_bits;

/* At most 56 bits. */
INLINE uint64_t low_bits_of(low_bits *from, int count) {
    uint64_t value;
    while (from->left < count) {
        from->waiting |= (uint64_t)byte_of(from->at) << from->left;
        from->left += 8;
    }
    value = from->waiting & (((uint64_t)1 << count) - 1);
    from->waiting >>= count;
    from->left -= count;
    return value;
}

#endif

/* ---- Checksums */

static uint32_t crc_of(const metaq_reader *reader, uint32_t crc, const uint8_t *bytes, size_t size) {
#if IS_SHORT
    static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                       0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                       0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    (void)reader;
    for (; size; size--) {
        crc ^= *bytes++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
#else
    /* Sixteen bytes at once, by a table for the distance of each from the end. */
    const uint32_t *table = reader->crc_table;
    for (; size >= 16; size -= 16, bytes += 16) {
        uint32_t next = 0;
        int k;
        for (k = 0; k < 4; k++) next ^= table[256 * (15 - k) + (int)((crc >> (8 * k) & 255) ^ bytes[k])];
        for (k = 4; k < 16; k++) next ^= table[256 * (15 - k) + bytes[k]];
        crc = next;
    }
    for (; size; size--) crc = crc >> 8 ^ table[(crc ^ *bytes++) & 255];
#endif
    return crc;
}

static void make_crc_table(metaq_reader *reader) {
#if !IS_SHORT
    uint32_t i, k, *table = reader->crc_table = room(reader, 16 * 256, sizeof(uint32_t));
    if (!table) return;
    for (i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        table[i] = crc;
    }
    for (i = 256; i < 16 * 256; i++) table[i] = table[i - 256] >> 8 ^ table[table[i - 256] & 255];
#else
    (void)reader;
#endif
}

/* Refuses a part of the file whose checksum is not the one at `place`. */
static void check_crc(metaq_reader *reader, size_t start, size_t size, size_t place) {
    uint8_t part[64];
    uint32_t crc = 0xffffffff;
    while (size && is_well(reader)) {
        const size_t now = reader->source.bytes ? size : least_size(size, sizeof part);
        if (reader->source.bytes) {
            crc = crc_of(reader, crc, reader->source.bytes + start, now);
        } else {
            fetch(reader, start, part, now);
            crc = crc_of(reader, crc, part, now);
        }
        start += now;
        size -= now;
    }
    fetch(reader, place, part, 4);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    crc = ~crc;
    if (crc != (part[0] | (uint32_t)part[1] << 8 | (uint32_t)part[2] << 16 | (uint32_t)part[3] << 24))
        refuse(reader, METAQ_DAMAGED);
#endif
}

/* ---- Logistic tables */

/* How far apart E_k are that are kept; the others are made from the one before. */
#define APART (IS_SMALL ? 16 : 1)
#define KEPT (LARGEST_LOGIT / APART + 1)

typedef struct logits {
    uint64_t *powers; /* E_0, E_APART, … */
#if !IS_SMALL
    int32_t *cumulative; /* of -3072 … 3072 */
    int32_t *logistic;
    int16_t *logit;
#endif
} logits;

SHARED uint64_t next_power(uint64_t power) {
    /* 4278222805 E >> 32, of up to 72 bits on the way. */
    return (power >> 32) * 4278222805u + ((power & 0xffffffff) * 4278222805u >> 32);
}

/* 2^68 // divisor, for divisors of at least 2^11. */
static uint64_t share_of(uint64_t divisor) {
    uint64_t whole = ((uint64_t)1 << 63) / divisor;
    return (whole << 5) + ((((uint64_t)1 << 63) % divisor << 5) / divisor);
}

#if IS_SMALL
static uint64_t power_of(const logits *of, int place) {
    uint64_t power = of->powers[place / APART];
    int i;
    for (i = place % APART; i > 0; i--) power = next_power(power);
    return power;
}
#endif

INLINE int32_t cumulative_of(const logits *of, int x) {
#if IS_SMALL
    int32_t value = (int32_t)share_of(ONE_40 + power_of(of, x < 0 ? -x : x));
    return x < 0 ? (int32_t)WHOLE - value : value;
#else
    return of->cumulative[x + LARGEST_LOGIT];
#endif
}

/* Of any logit, in units of 2^-16. */
INLINE int32_t logistic_of(const logits *of, int64_t x) {
    const int place = clip(x, -CLIPPED_LOGIT, CLIPPED_LOGIT);
#if IS_SMALL
    return (cumulative_of(of, place) + (1 << 11)) >> 12;
#else
    return of->logistic[place + LARGEST_LOGIT];
#endif
}

#if IS_SMALL
/* The least k with E_k <= most, or 3073. */
static int first_power(const logits *of, uint64_t most) {
    int low = 0, high = KEPT - 1, place;
    uint64_t power;
    if (of->powers[0] <= most) return 0;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (of->powers[middle] <= most) high = middle;
        else low = middle;
    }
    power = of->powers[of->powers[high] <= most ? low : high];
    for (place = (of->powers[high] <= most ? low : high) * APART; power > most && place <= LARGEST_LOGIT; place++)
        power = next_power(power);
    return place;
}
#endif

INLINE int logit_of(const logits *of, uint32_t p) {
#if IS_SMALL
    /* logistic(x) >= p where cumulative(x) >= q. */
    const int32_t q = (int32_t)(p << 12) - (1 << 11);
    if (q <= 0) return -CLIPPED_LOGIT;
    if (q > (int32_t)WHOLE / 2) return (int)least(first_power(of, share_of((uint64_t)q) - ONE_40), CLIPPED_LOGIT);
    return (int)largest(1 - first_power(of, share_of((uint64_t)(WHOLE - q + 1)) - ONE_40), -CLIPPED_LOGIT);
#else
    return of->logit[p];
#endif
}

static void make_logits(metaq_reader *reader, logits *of) {
    uint64_t power = ONE_40;
    int k;
    of->powers = room(reader, KEPT, sizeof(uint64_t));
#if !IS_SMALL
    of->cumulative = room(reader, 2 * LARGEST_LOGIT + 1, sizeof(int32_t));
    of->logistic = room(reader, 2 * LARGEST_LOGIT + 1, sizeof(int32_t));
    of->logit = room(reader, 65536, sizeof(int16_t));
#endif
    if (reader->is_counting || !is_well(reader)) return;
    for (k = 0; k <= LARGEST_LOGIT; k++, power = next_power(power)) {
        if (k % APART == 0) of->powers[k / APART] = power;
#if !IS_SMALL
        of->cumulative[LARGEST_LOGIT + k] = (int32_t)share_of(ONE_40 + power);
        of->cumulative[LARGEST_LOGIT - k] = (int32_t)WHOLE - of->cumulative[LARGEST_LOGIT + k];
#endif
    }
#if !IS_SMALL
    for (k = 0; k <= 2 * LARGEST_LOGIT; k++) of->logistic[k] = (of->cumulative[k] + (1 << 11)) >> 12;
    {
        int x = 0, p;
        for (p = 0; p < 65536; p++) {
            while (x < 2 * LARGEST_LOGIT && of->logistic[x] < p) x++;
            of->logit[p] = (int16_t)clip(x - LARGEST_LOGIT, -CLIPPED_LOGIT, CLIPPED_LOGIT);
        }
    }
#endif
}

/* ---- Header bytes */

#define ORDERS 5

static const uint8_t DICTIONARY[] = {
    0x0c, 0x00, 0x34, 0x00, 0x39, 0x6c, 0x6d, 0x5f, 0x68, 0x65, 0x61, 0x64, 0x00, 0x91, 0x01, 0x6d, 0x6f, 0x64, 0x65,
    0x6c, 0x2e, 0x65, 0x6d, 0x62, 0x65, 0x64, 0x5f, 0x74, 0x6f, 0x6b, 0x65, 0x6e, 0x73, 0x06, 0xc1, 0x01, 0x6c, 0x61,
    0x79, 0x65, 0x72, 0x73, 0x2e, 0x30, 0x2e, 0x69, 0x6e, 0x70, 0x75, 0x74, 0x5f, 0x6c, 0x61, 0x79, 0x65, 0x72, 0x6e,
    0x6f, 0x72, 0x6d, 0x0f, 0x69, 0x6d, 0x6c, 0x70, 0x2e, 0x64, 0x6f, 0x77, 0x6e, 0x5f, 0x70, 0x72, 0x6f, 0x6a, 0x13,
    0x49, 0x67, 0x61, 0x74, 0x65, 0x5f, 0x70, 0x72, 0x6f, 0x6a, 0x13, 0x39, 0x75, 0x70, 0x5f, 0x70, 0x72, 0x6f, 0x6a,
    0x0f, 0xc1, 0x01, 0x70, 0x6f, 0x73, 0x74, 0x5f, 0x61, 0x74, 0x74, 0x65, 0x6e, 0x74, 0x69, 0x6f, 0x6e, 0x5f, 0x6c,
    0x61, 0x79, 0x65, 0x72, 0x6e, 0x6f, 0x72, 0x6d, 0x0f, 0x81, 0x01, 0x73, 0x65, 0x6c, 0x66, 0x5f, 0x61, 0x74, 0x74,
    0x6e, 0x2e, 0x6b, 0x5f, 0x70, 0x72, 0x6f, 0x6a, 0x19, 0x31, 0x6f, 0x5f, 0x70, 0x72, 0x6f, 0x6a, 0x19, 0x31, 0x71,
    0x5f, 0x70, 0x72, 0x6f, 0x6a, 0x19, 0x31, 0x76, 0x5f, 0x70, 0x72, 0x6f, 0x6a, 0x06, 0x21, 0x6e, 0x6f, 0x72, 0x6d,
    0x42, 0x80, 0xfa, 0x01, 0x80, 0x10, 0x42, 0x80, 0xfa, 0x01, 0x80, 0x10, 0x22, 0x80, 0x10, 0x42, 0x80, 0x10, 0x80,
    0x40, 0x42, 0x80, 0x40, 0x80, 0x10, 0x42, 0x80, 0x40, 0x80, 0x10, 0x22, 0x80, 0x10, 0x42, 0x80, 0x10, 0x80, 0x10,
    0x42, 0x80, 0x10, 0x80, 0x10, 0x42, 0x80, 0x10, 0x80, 0x10, 0x42, 0x80, 0x10, 0x80, 0x10, 0x22, 0x80, 0x10, 0x01,
    0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x03, 0x00, 0x03, 0x01, 0x02, 0x0c, 0x09, 0x0c, 0x09, 0x09,
    0x0c, 0x0c, 0x09, 0x0c, 0x0f, 0x07, 0x1f, 0x09, 0x15, 0x05, 0x0b, 0x03, 0x1b, 0x11, 0x3f, 0xde, 0x28, 0x02, 0x3d,
    0x73, 0x29, 0xae, 0x30, 0x6e, 0x34, 0x06, 0x25, 0x74, 0x2c, 0x93, 0x39, 0x7c, 0x26, 0xe4, 0x27, 0x00, 0x34, 0x00,
    0xa2, 0x01, 0x65, 0x6d, 0x62, 0x65, 0x64, 0x64, 0x69, 0x6e, 0x67, 0x73, 0x2e, 0x4c, 0x61, 0x79, 0x65, 0x72, 0x4e,
    0x6f, 0x72, 0x6d, 0x14, 0x01, 0x0b, 0x99, 0x01, 0x70, 0x6f, 0x73, 0x69, 0x74, 0x69, 0x6f, 0x6e, 0x5f, 0x65, 0x6d,
    0x62, 0x65, 0x64, 0x64, 0x69, 0x6e, 0x67, 0x73, 0x0b, 0xa9, 0x01, 0x74, 0x6f, 0x6b, 0x65, 0x6e, 0x5f, 0x74, 0x79,
    0x70, 0x65, 0x5f, 0x65, 0x6d, 0x62, 0x65, 0x64, 0x64, 0x69, 0x6e, 0x67, 0x73, 0x0b, 0x79, 0x77, 0x6f, 0x72, 0x64,
    0x5f, 0x65, 0x6d, 0x62, 0x65, 0x64, 0x64, 0x69, 0x6e, 0x67, 0x73, 0x01, 0xca, 0x02, 0x6e, 0x63, 0x6f, 0x64, 0x65,
    0x72, 0x2e, 0x6c, 0x61, 0x79, 0x65, 0x72, 0x2e, 0x30, 0x2e, 0x61, 0x74, 0x74, 0x65, 0x6e, 0x74, 0x69, 0x6f, 0x6e,
    0x2e, 0x6f, 0x75, 0x74, 0x70, 0x75, 0x74, 0x2e, 0x4c, 0x61, 0x79, 0x65, 0x72, 0x4e, 0x6f, 0x72, 0x6d, 0x2a, 0x01,
    0x21, 0x2a, 0x64, 0x65, 0x6e, 0x73, 0x65, 0x26, 0x01, 0x1a, 0x42, 0x73, 0x65, 0x6c, 0x66, 0x2e, 0x6b, 0x65, 0x79,
    0x22, 0x01, 0x1f, 0x2a, 0x71, 0x75, 0x65, 0x72, 0x79, 0x24, 0x01, 0x1f, 0x2a, 0x76, 0x61, 0x6c, 0x75, 0x65, 0x24,
    0x01, 0x10, 0x92, 0x01, 0x69, 0x6e, 0x74, 0x65, 0x72, 0x6d, 0x65, 0x64, 0x69, 0x61, 0x74, 0x65, 0x2e, 0x64, 0x65,
    0x6e, 0x73, 0x65, 0x22, 0x01, 0x10, 0x82, 0x01, 0x6f, 0x75, 0x74, 0x70, 0x75, 0x74, 0x2e, 0x4c, 0x61, 0x79, 0x65,
    0x72, 0x4e, 0x6f, 0x72, 0x6d, 0x20, 0x01, 0x17, 0x2a, 0x64, 0x65, 0x6e, 0x73, 0x65, 0x1c, 0x01, 0x0e, 0xe2, 0x01,
    0x31, 0x2e, 0x61, 0x74, 0x74, 0x65, 0x6e, 0x74, 0x69, 0x6f, 0x6e, 0x2e, 0x6f, 0x75, 0x74, 0x70, 0x75, 0x74, 0x2e,
    0x4c, 0x61, 0x79, 0x65, 0x72, 0x4e, 0x6f, 0x72, 0x6d, 0x2a, 0x01, 0x21, 0x2a, 0x64, 0x65, 0x6e, 0x73, 0x65, 0x26,
    0x01, 0x1a, 0x42, 0x73, 0x65, 0x6c, 0x66, 0x2e, 0x6b, 0x65, 0x79, 0x22, 0x01, 0x1f, 0x2a, 0x71, 0x75, 0x65, 0x72,
    0x79, 0x24, 0x01, 0x1f, 0x2a, 0x76, 0x61, 0x6c, 0x75, 0x65, 0x24, 0x01, 0x10, 0x92, 0x01, 0x69, 0x6e, 0x74, 0x65,
    0x72, 0x6d, 0x65, 0x64, 0x69, 0x61, 0x74, 0x65, 0x2e, 0x64, 0x65, 0x6e, 0x73, 0x65, 0x22, 0x01, 0x10, 0x82, 0x01,
    0x6f, 0x75, 0x74, 0x70, 0x75, 0x74, 0x2e, 0x4c, 0x61, 0x79, 0x65, 0x72, 0x4e, 0x6f, 0x72, 0x6d, 0x20, 0x01, 0x17,
    0x2a, 0x64, 0x65, 0x6e, 0x73, 0x65, 0x1c, 0x01, 0x00, 0x62, 0x70, 0x6f, 0x6f, 0x6c, 0x65, 0x72, 0x2e, 0x64, 0x65,
    0x6e, 0x73, 0x65, 0x0c, 0x01, 0x20, 0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x04, 0x80, 0x06, 0x40, 0x02, 0x80,
    0x06, 0x40, 0xba, 0xee, 0x01, 0x80, 0x06, 0x20, 0x80, 0x06, 0x20, 0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06,
    0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06, 0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06, 0x80, 0x06, 0x20,
    0x80, 0x06, 0x40, 0x80, 0x06, 0x80, 0x06, 0x20, 0x80, 0x18, 0x40, 0x80, 0x18, 0x80, 0x06, 0x20, 0x80, 0x06, 0x20,
    0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06, 0x80, 0x18, 0x20, 0x80, 0x06, 0x20, 0x80, 0x06, 0x20, 0x80, 0x06,
    0x40, 0x80, 0x06, 0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06, 0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06,
    0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06, 0x80, 0x06, 0x20, 0x80, 0x18, 0x40, 0x80, 0x18, 0x80, 0x06, 0x20,
    0x80, 0x06, 0x20, 0x80, 0x06, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06, 0x80, 0x18, 0x20, 0x80, 0x06, 0x40, 0x80, 0x06,
    0x80, 0x06, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x03, 0x00, 0x03, 0x01, 0x03, 0x02, 0x03,
    0x03, 0x03, 0x04, 0x03, 0x05, 0x03, 0x06, 0x03, 0x07, 0x03, 0x08, 0x03, 0x09, 0x03, 0x00, 0x03, 0x01, 0x03, 0x02,
    0x03, 0x03, 0x03, 0x04, 0x03, 0x05, 0x03, 0x06, 0x03, 0x07, 0x03, 0x08, 0x03, 0x09, 0x03, 0x00, 0x03, 0x01, 0x03,
    0x02, 0x03, 0x03, 0x03, 0x04, 0x03, 0x05, 0x03, 0x06, 0x03, 0x07, 0x03, 0x08, 0x02, 0x0c, 0x09, 0x0c, 0x09, 0x09,
    0x0c, 0x0c, 0x09, 0x0c, 0x0f, 0x07, 0x1f, 0x09, 0x15, 0x05, 0x0b, 0x03, 0x1b, 0x11, 0x3f, 0xde, 0x28, 0x02, 0x3d,
    0x73, 0x29, 0xae, 0x30, 0x6e, 0x34, 0x06, 0x25, 0x74, 0x2c, 0x93, 0x39, 0x7c, 0x26, 0xe4, 0x26, 0x00, 0x34, 0x00,
    0x1a, 0x62, 0x6e, 0x31, 0x03, 0x05, 0x03, 0x03, 0x03, 0x04, 0x03, 0x01, 0x00, 0x29, 0x63, 0x6f, 0x6e, 0x76, 0x31,
    0x00, 0x12, 0x66, 0x63, 0x02, 0x01, 0x00, 0x62, 0x6c, 0x61, 0x79, 0x65, 0x72, 0x31, 0x2e, 0x30, 0x2e, 0x62, 0x6e,
    0x31, 0x0c, 0x05, 0x0c, 0x03, 0x0c, 0x04, 0x0c, 0x01, 0x0b, 0x0a, 0x32, 0x0c, 0x05, 0x0c, 0x03, 0x0c, 0x04, 0x0c,
    0x01, 0x09, 0x29, 0x63, 0x6f, 0x6e, 0x76, 0x31, 0x0d, 0x09, 0x32, 0x05, 0x3a, 0x32, 0x2e, 0x30, 0x2e, 0x62, 0x6e,
    0x31, 0x0c, 0x05, 0x0c, 0x03, 0x0c, 0x04, 0x0c, 0x01, 0x0b, 0x0a, 0x32, 0x0c, 0x05, 0x0c, 0x03, 0x0c, 0x04, 0x0c,
    0x01, 0x09, 0x29, 0x63, 0x6f, 0x6e, 0x76, 0x31, 0x0d, 0x09, 0x32, 0x09, 0x61, 0x64, 0x6f, 0x77, 0x6e, 0x73, 0x61,
    0x6d, 0x70, 0x6c, 0x65, 0x2e, 0x30, 0x14, 0x0a, 0x31, 0x15, 0x05, 0x15, 0x03, 0x15, 0x04, 0x15, 0x01, 0x20, 0x40,
    0x08, 0x20, 0x40, 0x20, 0x40, 0x20, 0x40, 0x80, 0x40, 0x03, 0x07, 0x07, 0x20, 0xe8, 0x07, 0x40, 0xe8, 0x07, 0x80,
    0x04, 0x20, 0x40, 0x08, 0x20, 0x40, 0x20, 0x40, 0x20, 0x40, 0x20, 0x40, 0x08, 0x20, 0x40, 0x20, 0x40, 0x20, 0x40,
    0x80, 0x40, 0x40, 0x03, 0x03, 0x80, 0x40, 0x40, 0x03, 0x03, 0x20, 0x80, 0x01, 0x08, 0x20, 0x80, 0x01, 0x20, 0x80,
    0x01, 0x20, 0x80, 0x01, 0x20, 0x80, 0x01, 0x08, 0x20, 0x80, 0x01, 0x20, 0x80, 0x01, 0x20, 0x80, 0x01, 0x80, 0x80,
    0x01, 0x40, 0x03, 0x03, 0x80, 0x80, 0x01, 0x80, 0x01, 0x03, 0x03, 0x80, 0x80, 0x01, 0x40, 0x01, 0x01, 0x20, 0x80,
    0x01, 0x08, 0x20, 0x80, 0x01, 0x20, 0x80, 0x01, 0x20, 0x80, 0x01, 0x01, 0x08, 0xd9, 0x59, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x01, 0x01, 0x01, 0x01, 0x01, 0x08, 0xe1, 0x59, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x01, 0x01, 0x08, 0xe6, 0x59, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x04, 0x03, 0x05, 0x01,
    0x03, 0x00, 0x08, 0xed, 0x59, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x01, 0x03, 0x02, 0x08, 0xf2,
    0x59, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x08, 0x03, 0x00, 0x01, 0x03, 0x06, 0x03, 0x07, 0x08,
    0xfa, 0x59, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x04, 0x02, 0x09, 0x09, 0x0c, 0x0c, 0x09, 0x09,
    0x0c, 0x0c, 0x0c, 0x0f, 0x15, 0x05, 0x0b, 0x03, 0x1b, 0x1f, 0x09, 0x11, 0x07, 0x3f, 0xde, 0x30, 0x6e, 0x34, 0x06,
    0x25, 0x74, 0x2c, 0x93, 0x39, 0x7c, 0x3d, 0x73, 0x29, 0xae, 0x26, 0xe4, 0x28, 0x02, 0x80, 0x02, 0x80, 0x02, 0x80,
    0x02, 0x80, 0x02, 0x80, 0x02, 0x80, 0x02, 0x80, 0x04, 0x80, 0x04, 0x80, 0x04, 0x80, 0x04, 0x80, 0x04, 0x80, 0x04,
    0x0a, 0x02, 0x34, 0x00, 0x2a, 0x63, 0x6f, 0x6e, 0x76, 0x31, 0x05, 0x01, 0x04, 0x0a, 0x32, 0x05, 0x01, 0x00, 0x1a,
    0x66, 0x63, 0x31, 0x03, 0x01, 0x02, 0x0a, 0x32, 0x03, 0x01, 0x02, 0x0a, 0x33, 0x03, 0x01, 0x20, 0x06, 0x80, 0x06,
    0x01, 0x05, 0x05, 0x20, 0x10, 0x80, 0x10, 0x06, 0x05, 0x05, 0x20, 0x78, 0x40, 0x78, 0x80, 0x02, 0x20, 0x54, 0x40,
    0x54, 0x78, 0x20, 0x0a, 0x40, 0x0a, 0x54, 0x01, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x0f,
    0x3f, 0xde, 0xd4, 0x16, 0x04, 0x64, 0x61, 0x74, 0x61, 0x00, 0x05, 0x6d, 0x6e, 0x69, 0x73, 0x74, 0x03, 0x6e, 0x65,
    0x74, 0x00, 0x06, 0x6c, 0x65, 0x6e, 0x65, 0x74, 0x35, 0x0a, 0x00, 0x34, 0x00, 0x2a, 0x63, 0x6f, 0x6e, 0x76, 0x31,
    0x05, 0x01, 0x04, 0x0a, 0x32, 0x05, 0x01, 0x00, 0x1a, 0x66, 0x63, 0x31, 0x03, 0x01, 0x02, 0x0a, 0x32, 0x03, 0x01,
    0x02, 0x0a, 0x33, 0x03, 0x01, 0x20, 0x06, 0x80, 0x06, 0x01, 0x05, 0x05, 0x20, 0x10, 0x80, 0x10, 0x06, 0x05, 0x05,
    0x20, 0x78, 0x40, 0x78, 0x80, 0x02, 0x20, 0x54, 0x40, 0x54, 0x78, 0x20, 0x0a, 0x40, 0x0a, 0x54, 0x01, 0x01, 0x01,
    0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x02, 0x0c, 0x09, 0x0c, 0x09, 0x09, 0x0c, 0x0c, 0x09, 0x0c, 0x0f, 0x07,
    0x1f, 0x09, 0x15, 0x05, 0x0b, 0x03, 0x1b, 0x11, 0x3f, 0xde, 0x28, 0x02, 0x3d, 0x73, 0x29, 0xae, 0x30, 0x6e, 0x34,
    0x06, 0x25, 0x74, 0x2c, 0x93, 0x39, 0x7c, 0x26, 0xe4, 0xc4, 0x13};
#define DICTIONARY_SIZE sizeof DICTIONARY

/* State of a slot: 1024 P + N. */
#define FRESH ((uint32_t)1 << 31)

enum { BUCKET = 16, BUCKET_BITS = 14, SLOTS = BUCKET << BUCKET_BITS };

typedef struct header_model {
    logits of;
    int32_t weights[ORDERS][ORDERS];
    uint32_t history;
    const uint8_t *header; /* as far as it is decoded, behind the dictionary */
    size_t decoded;
#if IS_SMALL
    uint32_t found[ORDERS][BUCKET];
#else
    uint32_t *slots[ORDERS];
#endif
    uint32_t *buckets[ORDERS]; /* of this half of a byte */
} header_model;

/* Number of the bucket of half a byte: `first` is 0 for the first half, and 16 and that half for the second. */
SHARED uint32_t bucket_of(uint32_t history, int order, uint32_t first) {
    uint32_t context = order < 4 ? history & (((uint32_t)1 << (8 * order)) - 1) : history;
    return (uint32_t)(context * 625341585u + first * 2654435761u) >> (32 - BUCKET_BITS);
}

INLINE uint32_t slot_after(uint32_t slot, int decision) {
    int64_t before = slot >> 10;
    uint32_t count = slot & 1023;
    int64_t after = before + (((decision ? (1 << 22) - 1 - before : -before) * (131072 / (2 * count + 3))) >> 16);
    return (uint32_t)after << 10 | (count < 30 ? count + 1 : 30);
}

#if IS_SMALL
/* Weights after the dictionary. */
static const uint16_t LEARNT_WEIGHTS[ORDERS][ORDERS] = {{31345, 22000, 22000, 22000, 22000},
                                                        {30288, 14241, 22000, 22000, 22000},
                                                        {33808, 19910, 29562, 22000, 22000},
                                                        {20495, 21563, 36428, 21321, 22000},
                                                        {15423, 22286, 34823, 53749, 42844}};

/* A bucket as all bytes have made it: there is no room for tables. */
static void gather_bucket(const header_model *model, int order, uint32_t wanted, uint32_t *bucket) {
    uint32_t history = 0, node;
    size_t i, halves = 2 * (DICTIONARY_SIZE + model->decoded);
    for (i = 0; i < BUCKET; i++) bucket[i] = FRESH;
    for (i = 0; i < halves; i++) {
        uint8_t byte = i / 2 < DICTIONARY_SIZE ? DICTIONARY[i / 2] : model->header[i / 2 - DICTIONARY_SIZE];
        uint32_t first = i % 2 ? 16 | byte >> 4 : 0;
        if (bucket_of(history, order, first) == wanted) {
            uint32_t half = i % 2 ? byte : byte >> 4;
            for (node = 1; node < BUCKET; half <<= 1) {
                int decision = half >> 3 & 1;
                bucket[node] = slot_after(bucket[node], decision);
                node = 2 * node + (uint32_t)decision;
            }
        }
        if (i % 2) history = history << 8 | byte;
    }
}
#endif

typedef struct header_prediction {
    int inputs[ORDERS];
    int set;
    int32_t probability;
} header_prediction;

static void choose_buckets(header_model *model, uint32_t first) {
    int order;
    for (order = 0; order < ORDERS; order++) {
        uint32_t bucket = bucket_of(model->history, order, first);
#if IS_SMALL
        /* The first half of this byte is not among the bytes yet, but the second never has its bucket. */
        gather_bucket(model, order, bucket, model->buckets[order] = model->found[order]);
#else
        model->buckets[order] = model->slots[order] + BUCKET * bucket;
#endif
    }
}

static void predict(header_model *model, uint32_t node, header_prediction *found) {
    int64_t sum = 0;
    int order;
    found->set = 0;
    for (order = 0; order < ORDERS; order++) {
        uint32_t slot = model->buckets[order][node];
        if (slot & 1023) found->set = order;
        found->inputs[order] = logit_of(&model->of, slot >> 16);
    }
    for (order = 0; order < ORDERS; order++) sum += (int64_t)model->weights[found->set][order] * found->inputs[order];
    found->probability = clip(logistic_of(&model->of, sum >> 16), 128, 65408);
}

static void learn(header_model *model, const header_prediction *from, uint32_t node, int decision) {
    int64_t error = 4 * (65536 * (int64_t)decision - from->probability);
    int order;
    for (order = 0; order < ORDERS; order++) {
        uint32_t *slot = &model->buckets[order][node];
        model->weights[from->set][order] += (int32_t)((from->inputs[order] * error + (1 << 15)) >> 16);
        *slot = slot_after(*slot, decision);
    }
}
static void start_header_model(metaq_reader *reader, header_model *model) {
#if IS_SMALL
    int i;
#endif
    make_logits(reader, &model->of);
    model->decoded = 0;
#if IS_SMALL
    for (i = 0; i < ORDERS * ORDERS; i++)
        model->weights[i / ORDERS][i % ORDERS] = LEARNT_WEIGHTS[i / ORDERS][i % ORDERS];
    model->history = (uint32_t)DICTIONARY[DICTIONARY_SIZE - 4] << 24 | (uint32_t)DICTIONARY[DICTIONARY_SIZE - 3] << 16 |
                     (uint32_t)DICTIONARY[DICTIONARY_SIZE - 2] << 8 | DICTIONARY[DICTIONARY_SIZE - 1];
#else
    {
        header_prediction found;
        size_t i;
        int order, bit;
        for (order = 0; order < ORDERS; order++) {
            model->slots[order] = room(reader, SLOTS, sizeof(uint32_t));
            for (i = 0; model->slots[order] && i < SLOTS; i++) model->slots[order][i] = FRESH;
            for (i = 0; i < ORDERS; i++) model->weights[order][i] = 22000;
        }
        model->history = 0;
        for (i = 0; i < DICTIONARY_SIZE && is_well(reader); i++) {
            uint32_t node = 0;
            for (bit = 7; bit >= 0; bit--) {
                int decision = DICTIONARY[i] >> bit & 1;
                if (bit % 4 == 3) {
                    choose_buckets(model, node);
                    node = 1;
                }
                predict(model, node, &found);
                learn(model, &found, node, decision);
                node = 2 * node + (uint32_t)decision;
            }
            model->history = model->history << 8 | DICTIONARY[i];
        }
    }
#endif
}

static void decode_header(metaq_reader *reader, input *in, uint8_t *header, size_t size) {
    header_model model;
    uint32_t low = 0, high = 0xffffffff, code = 0;
    int bytes;
#ifdef METAQ_PLAIN_HEADER
    /* For fuzzers, which do not find codes. */
    for (model.decoded = 0; model.decoded < size; model.decoded++) header[model.decoded] = next_byte(in);
    if (in->missing || !is_at_end(in)) refuse(reader, METAQ_DAMAGED);
    return;
#endif
    start_header_model(reader, &model);
    model.header = header;
    for (bytes = 0; bytes < 4; bytes++) code = code << 8 | next_byte(in);
    while (model.decoded < size && is_well(reader)) {
        header_prediction found;
        uint32_t byte = 0, node = 0;
        int bit;
        for (bit = 7; bit >= 0; bit--) {
            uint32_t middle;
            int decision;
            if (bit % 4 == 3) {
                choose_buckets(&model, node);
                node = 1;
            }
            predict(&model, node, &found);
            middle = low + (uint32_t)((uint64_t)(high - low) * (uint32_t)found.probability >> 16);
            decision = code <= middle;
            if (decision) high = middle;
            else low = middle + 1;
            while ((low ^ high) >> 24 == 0) {
                low <<= 8;
                high = high << 8 | 255;
                code = code << 8 | next_byte(in);
            }
            learn(&model, &found, node, decision);
            node = 2 * node + (uint32_t)decision;
            byte = 2 * byte + (uint32_t)decision;
        }
        header[model.decoded++] = (uint8_t)byte;
        model.history = model.history << 8 | byte;
        if (in->missing > 4) break;
    }
    for (bytes = 0; bytes <= 4; bytes++) {
        uint64_t unit = (uint64_t)1 << (8 * (4 - bytes)), tail = (low + unit - 1) & ~(unit - 1);
        if (tail > high) continue;
        if (code != tail || !is_at_end(in) || in->missing != (uint32_t)(4 - bytes)) refuse(reader, METAQ_DAMAGED);
        return;
    }
    refuse(reader, METAQ_DAMAGED);
}

/* ---- Header */

enum { RAW, ZSTD, INLINE_EXACT, TIED, PLANES, QUANTISED };
enum { CONSTANT, SMALL, FAST, OF_PLANES, WHOLE_TENSOR };
enum { ALONE, GIVEN, ADDED, DIFFERENCES }; /* relations to the base */

INLINE int is_update(const metaq_reader *reader) { return HAS_UPDATES && reader->base; }
INLINE int relation_of(const metaq_tensor *tensor) { return HAS_UPDATES ? tensor->relation : ALONE; }

#define NOWHERE UINT32_MAX

static const uint8_t ELEMENT_SIZES[] = {4, 2, 2, 8, 1, 1, 2, 4, 8, 1, 2, 4, 8, 8, 16, 1, 1};
#define TYPES sizeof ELEMENT_SIZES

typedef struct grid {
    double center, radius;
    uint32_t buckets;
} grid;

typedef struct metaq_basis {
    metaq_tensor stream; /* as which it is coded */
    uint32_t size;
    int is_narrow;      /* whether numerators are int16_t and sums of products fit int32_t */
    void *numerators;   /* int16_t or int32_t, column after column */
    int64_t column_sum; /* largest sum of magnitudes of a column */
} metaq_basis;

typedef struct metaq_chunk {
    size_t position, size;           /* bytes of the file */
    size_t start, count, row_length; /* of the first stream of it, or the piece of it */
    uint32_t first;                  /* stream */
    uint8_t key;
} metaq_chunk;

/* Streams are the tensors, and the bases behind them. */
static metaq_tensor *stream_at(const metaq_reader *reader, uint32_t number) {
    return number < reader->count ? &reader->tensors[number] : &reader->bases[number - reader->count].stream;
}

static int is_utf8(const uint8_t *text, size_t size) {
    size_t i = 0;
    while (i < size) {
        uint32_t first = text[i++], value;
        int more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : 3, k;
        if (first >= 0x80 && (first < 0xc2 || first > 0xf4)) return 0;
        value = more == 0 ? first : first & (0x3fu >> more);
        for (k = 0; k < more; k++) {
            if (i == size || (text[i] & 0xc0) != 0x80) return 0;
            value = value << 6 | (text[i++] & 0x3f);
        }
        if ((more == 2 && (value < 0x800 || (value >= 0xd800 && value < 0xe000))) ||
            (more == 3 && (value < 0x10000 || value > 0x10ffff)))
            return 0;
    }
    return 1;
}

static int is_before(const uint8_t *left, size_t left_size, const uint8_t *right, size_t right_size) {
    int order = memcmp(left, right, left_size < right_size ? left_size : right_size);
    return order < 0 || (order == 0 && left_size < right_size);
}

static void read_names(metaq_reader *reader, cursor *at) {
    static const char ENDINGS[] = "\0.weight\0.bias\0.running_mean\0.running_var\0.num_batches_tracked";
    size_t i, total = 0;
    const char *last = "";
    size_t last_size = 0;
    for (i = 0; i < reader->count && is_well(reader); i++) {
        metaq_tensor *tensor = &reader->tensors[i];
        const size_t shared = varint_up_to(at, last_size), field = varint_up_to(at, SIZE_MAX), ending = field & 7;
        const uint8_t *middle = take(at, field >> 3);
        size_t middle_size = field >> 3, ending_size, k;
        const char *end = ENDINGS;
        char *name;
        if (ending > 5 && !at->is_bad) refuse(reader, METAQ_NEWER);
        if (at->is_bad) refuse(reader, METAQ_DAMAGED);
        if (!is_well(reader)) return;
        for (k = 0; k < ending; k++) end += strlen(end) + 1;
        ending_size = strlen(end);
        tensor->name_size = shared + middle_size + ending_size;
        total += tensor->name_size;
        if (total > (size_t)1 << 24) refuse(reader, METAQ_DAMAGED);
        name = room(reader, tensor->name_size + 1, 1);
        if (!name) return;
        memcpy(name, last, shared);
        memcpy(name + shared, middle, middle_size);
        memcpy(name + shared + middle_size, end, ending_size);
        if ((i > 0 && !is_before((const uint8_t *)last, last_size, (const uint8_t *)name, tensor->name_size)) ||
            !is_utf8((const uint8_t *)name, tensor->name_size))
            refuse(reader, METAQ_DAMAGED);
        tensor->name = last = name;
        last_size = tensor->name_size;
    }
}

static void read_kinds(metaq_reader *reader, cursor *at) {
    uint64_t total = 0;
    const uint64_t most = (uint64_t)1 << 33;
    size_t i;
    for (i = 0; i < reader->count && is_well(reader); i++) {
        metaq_tensor *tensor = &reader->tensors[i];
        uint8_t byte = byte_of(at);
        uint64_t counted = 1;
        uint32_t k;
        size_t *shape, elements = 1;
        tensor->type = (metaq_type)(byte & 31);
        if (!at->is_bad && tensor->type >= TYPES) refuse(reader, METAQ_NEWER);
        if (at->is_bad || tensor->type >= TYPES) break;
        tensor->element_size = ELEMENT_SIZES[tensor->type];
        tensor->dimensions = byte >> 5;
        if (tensor->dimensions == 7) {
            tensor->dimensions = (uint32_t)varint_up_to(at, 32);
            if (tensor->dimensions < 7) at->is_bad = 1;
        }
        shape = room(reader, tensor->dimensions, sizeof(size_t));
        for (k = 0; shape && k < tensor->dimensions && !at->is_bad; k++) {
            const uint64_t size = varint_of(at);
            if (size > most) at->is_bad = 1;
            if (at->is_bad) break;
            counted *= size ? size : 1;
            if (counted > most) at->is_bad = 1;
            if (size > SIZE_MAX || counted * tensor->element_size > SIZE_MAX) refuse(reader, METAQ_TOO_LARGE);
            shape[k] = (size_t)size;
            elements *= shape[k];
        }
        tensor->shape = shape;
        tensor->elements = elements;
        total += counted;
        if (total > most) at->is_bad = 1;
    }
    if (at->is_bad) refuse(reader, METAQ_DAMAGED);
}

static void read_exact(metaq_reader *reader, cursor *at, uint32_t number, int way) {
    metaq_tensor *tensor = stream_at(reader, number);
#ifdef METAQ_UPDATES
    if (reader->base && way == PLANES + 1) {
        way = PLANES;
        tensor->relation = DIFFERENCES;
        if (tensor->type == METAQ_BOOL || tensor->type == METAQ_COMPLEX64 || tensor->type == METAQ_COMPLEX128)
            at->is_bad = 1;
    }
#endif
    if (way > PLANES) {
        refuse(reader, METAQ_NEWER);
        return;
    }
    tensor->storage = (uint8_t)way;
    if (way == TIED) {
        const size_t to = varint_up_to(at, number);
        const metaq_tensor *other;
        if (at->is_bad || to >= number) {
            at->is_bad = 1;
            return;
        }
        other = stream_at(reader, (uint32_t)to);
        if (other->storage == TIED || other->type != tensor->type || other->dimensions != tensor->dimensions ||
            memcmp(other->shape, tensor->shape, tensor->dimensions * sizeof(size_t)) != 0)
            at->is_bad = 1;
        tensor->tied_to = (int32_t)to;
    } else if (way == INLINE_EXACT) {
        if (tensor->elements * tensor->element_size > 64) at->is_bad = 1;
        tensor->elements_in_header = take(at, tensor->elements * tensor->element_size);
    } else if (tensor->elements == 0) {
        at->is_bad = 1;
    }
}

typedef struct counts {
    size_t grids, last_grid, bases;
    uint8_t coder;
} counts;

/* Until the grids are read, `next` is the number of the tensor's. */
static void read_quantised(metaq_reader *reader, cursor *at, metaq_tensor *tensor, uint8_t byte, counts *of) {
    size_t more, number;
    tensor->storage = QUANTISED;
    if (tensor->type > METAQ_FLOAT64 && tensor->type < METAQ_FLOAT8_E4M3FN) at->is_bad = 1;
    tensor->by_columns = byte >> 2 & 1;
    tensor->trellis_bits = byte >> 3 & 7;
    if (tensor->trellis_bits == 1) tensor->trellis_bits = 8;
    number = byte & 64 ? varint_up_to(at, SIZE_MAX) : of->coder;
    if (number > FAST) {
        if (!at->is_bad) refuse(reader, METAQ_NEWER);
        return;
    }
    tensor->coder = (uint32_t)number;
    if ((byte & 3) == 1) of->last_grid = of->grids++;
    if ((byte & 3) == 3) of->last_grid = varint_up_to(at, SIZE_MAX);
    if (of->last_grid >= of->grids) at->is_bad = 1;
    tensor->next = (uint32_t)of->last_grid;
    tensor->basis = NOWHERE;
    if (!(byte & 128)) return;
    more = varint_up_to(at, SIZE_MAX - 1) + 1;
    if (more & 1) tensor->scales = reader->header; /* until they are there */
    more >>= 1;
#ifdef METAQ_UPDATES
    if (reader->base) {
        tensor->relation = (uint8_t)(more % 3);
        more /= 3;
        if (more && tensor->relation == GIVEN) at->is_bad = 1;
    }
#endif
    if (more) {
        number = more - 1;
        if (number > of->bases) at->is_bad = 1;
        if (number == of->bases) of->bases++;
        tensor->basis = (uint32_t)number;
    }
}

static double from_bits(uint64_t pattern) {
    double value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

static uint64_t to_bits(double value) {
    uint64_t pattern;
    memcpy(&pattern, &value, sizeof pattern);
    return pattern;
}

static double power_of_two(int exponent) { return from_bits((uint64_t)(exponent + 1023) << 52); }

/* A narrow floating type: bits of the mantissa, bias of the exponent, and patterns without the sign. */
typedef struct narrow {
    uint8_t mantissa, bias, sign_bit;
    uint16_t largest_bits, beyond_bits;
} narrow;

static const narrow FLOAT16 = {10, 15, 15, 0x7bff, 0x7c00};
static const narrow FLOAT8_E4M3FN = {3, 7, 7, 0x7e, 0x7e};
static const narrow FLOAT8_E5M2 = {2, 15, 7, 0x7b, 0x7b};

static const narrow *narrow_of(metaq_type type) {
    return type == METAQ_FLOAT16 ? &FLOAT16 : type == METAQ_FLOAT8_E5M2 ? &FLOAT8_E5M2 : &FLOAT8_E4M3FN;
}

static double from_narrow(uint32_t pattern, const narrow *type) {
    uint32_t size = pattern & ((1u << type->sign_bit) - 1), exponent = size >> type->mantissa;
    uint32_t mantissa = size & ((1u << type->mantissa) - 1);
    double value;
    if (size > type->largest_bits) {
        int is_infinite = type->mantissa != 3 && size == type->largest_bits + 1u;
        value = from_bits(is_infinite ? 0x7ff0000000000000 : 0x7ff8000000000000);
    } else if (exponent == 0) {
        value = mantissa * power_of_two(1 - type->bias - type->mantissa);
    } else {
        value = (mantissa + (1u << type->mantissa)) * power_of_two((int)exponent - type->bias - type->mantissa);
    }
    return pattern >> type->sign_bit & 1 ? -value : value;
}

/* The pattern nearest to a finite value, of two the even one. */
static uint32_t to_narrow(double value, const narrow *type) {
    uint64_t pattern = to_bits(value), mantissa = (pattern & 0xfffffffffffff) | (uint64_t)1 << 52;
    int exponent = (int)(pattern >> 52 & 2047) - 1023, lowest = 1 - type->bias, dropped;
    uint64_t rounded;
    uint32_t found = 0;
    if (exponent < lowest - 60) {
        mantissa = 0;
        exponent = lowest;
    }
    dropped = 52 - type->mantissa + (exponent < lowest ? lowest - exponent : 0);
    if (dropped > 63) {
        rounded = 0;
    } else {
        uint64_t half = (uint64_t)1 << (dropped - 1), left = mantissa & ((half << 1) - 1);
        rounded = mantissa >> dropped;
        if (left > half || (left == half && (rounded & 1))) rounded++;
    }
    /* A mantissa that is rounded up to the next power of two carries into the exponent. */
    found = (uint32_t)rounded + (exponent < lowest ? 0 : (uint32_t)(exponent + type->bias - 1) << type->mantissa);
    if (found > type->beyond_bits) found = type->beyond_bits;
    return found | (uint32_t)(pattern >> 63) << type->sign_bit;
}

static double read_number(metaq_reader *reader, cursor *at, int code) {
    uint64_t pattern = 0;
    int k, size = code <= 8 ? code : code == 9 ? 2 : 4;
    if (code == 11) {
        uint64_t field = varint_of(at);
        int places = byte_of(at);
        double power = 1, value;
        if (places > 22 || field >> 54) {
            at->is_bad = 1;
            return 0;
        }
        while (places-- > 0) power *= 10;
        value = (double)(field >> 1) / power;
        return field & 1 ? -value : value;
    }
    if (code > 11) {
        refuse(reader, METAQ_NEWER);
        return 0;
    }
    for (k = 0; k < size; k++) pattern = pattern << 8 | byte_of(at);
    if (code == 9) return from_narrow((uint32_t)pattern, &FLOAT16);
    if (code == 10) {
        uint32_t single = (uint32_t)pattern;
        float value;
        memcpy(&value, &single, sizeof value);
        return value;
    }
    return code == 0 ? 0 : from_bits(pattern << (64 - 8 * code));
}

static int is_finite(double value) { return (to_bits(value) >> 52 & 2047) != 2047; }

static double size_of_number(double value) { return value < 0 ? -value : value; }

static void read_grids(metaq_reader *reader, cursor *at, grid *grids, size_t number) {
    const uint8_t *codes = take(at, number);
    size_t i;
    if (!codes) return;
    for (i = 0; i < number; i++) grids[i].buckets = (uint32_t)varint_up_to(at, 1 << 24);
    for (i = 0; i < number; i++) grids[i].center = read_number(reader, at, codes[i] >> 4);
    for (i = 0; i < number && is_well(reader); i++) {
        grid *of = &grids[i];
        int code = codes[i] & 15, is_step = code >= 12 && code <= 14;
        double span, count = of->buckets;
        of->radius = read_number(reader, at, is_step ? code - 3 : code);
        if (is_step) of->radius = of->radius * count / 2;
        if (of->buckets < 2 || !is_finite(of->center) || !is_finite(of->radius) || !(of->radius > 0)) {
            at->is_bad = 1;
            return;
        }
        span = size_of_number(of->center) + of->radius;
        if (!is_finite(2 * span * count) || span + 2 * of->radius / count / 4 == span) at->is_bad = 1;
    }
}

static double value_of(double center, double radius, uint32_t buckets, double numerator) {
    double product = radius * numerator, share = product / buckets;
    return center + share;
}

static double factor_of(uint8_t code) {
    static const uint8_t QUARTERS[] = {32, 38, 45, 54};
    const int k = code - 128;
    return QUARTERS[k & 3] * power_of_two((k >> 2) - 5);
}

static double largest_factor(const metaq_tensor *tensor) {
    uint8_t rows = 0, columns = 0;
    size_t i;
    if (!tensor->scales) return 1;
    for (i = 0; i < tensor->shape[0]; i++) rows = tensor->scales[i] > rows ? tensor->scales[i] : rows;
    for (; i < tensor->shape[0] + tensor->shape[1]; i++)
        columns = tensor->scales[i] > columns ? tensor->scales[i] : columns;
    return factor_of(rows) * factor_of(columns);
}

static double largest_of(metaq_type type) {
    static const double LARGEST[] = {3.4028234663852886e38, 65504, 3.3895313892515355e38, 1.7976931348623157e308};
    return type <= METAQ_FLOAT64 ? LARGEST[type] : type == METAQ_FLOAT8_E4M3FN ? 448 : 57344;
}

static void check_quantised(metaq_reader *reader, cursor *at, metaq_tensor *tensor) {
    double end;
    if (tensor->scales) {
        if (tensor->dimensions < 2 || tensor->elements == 0) {
            at->is_bad = 1;
            return;
        }
        tensor->scales = take(at, tensor->shape[0] + tensor->shape[1]);
        if (at->is_bad) return;
    }
    if ((tensor->trellis_bits && tensor->buckets % 2 == 0) || (relation_of(tensor) == ADDED && tensor->center != 0))
        at->is_bad = 1;
    if (tensor->basis != NOWHERE) {
        const metaq_basis *basis = &reader->bases[tensor->basis];
        const uint64_t most = (uint64_t)1 << 53;
        if (tensor->dimensions != 2 || tensor->shape[1] != basis->size || tensor->by_columns || tensor->center != 0 ||
            tensor->buckets % 2 == 0 ||
            (uint64_t)tensor->buckets * basis->stream.buckets >= (most + basis->size - 1) / basis->size)
            at->is_bad = 1;
        return;
    }
    end = value_of(size_of_number(tensor->center), tensor->radius, tensor->buckets, (double)tensor->buckets - 1);
    if (!(end * largest_factor(tensor) <= largest_of(tensor->type))) at->is_bad = 1;
}

static void read_storage(metaq_reader *reader, cursor *at, counts *of) {
    uint32_t i;
    for (i = 0; i < reader->count && is_well(reader) && !at->is_bad; i++) {
        uint8_t byte = byte_of(at);
        reader->tensors[i].tied_to = -1;
        if ((byte & 3) == 0) read_exact(reader, at, i, byte >> 2);
        else read_quantised(reader, at, &reader->tensors[i], byte, of);
    }
    if (at->is_bad) refuse(reader, METAQ_DAMAGED);
}

static void read_bases(metaq_reader *reader, cursor *at, const counts *of, grid *grids) {
    size_t *shape;
    uint32_t i;
    for (i = 0; i < reader->basis_count && is_well(reader); i++) {
        metaq_basis *basis = &reader->bases[i];
        basis->size = (uint32_t)varint_up_to(at, 1 << 14);
        shape = room(reader, 2, sizeof(size_t));
        if (!shape) return;
        shape[0] = shape[1] = basis->size;
        basis->stream.shape = shape;
        basis->stream.dimensions = 2;
        basis->stream.elements = (size_t)basis->size * basis->size;
        basis->stream.storage = QUANTISED;
        basis->stream.coder = of->coder;
        basis->stream.basis = NOWHERE;
        if (basis->size == 0) at->is_bad = 1;
        if (of->coder > FAST) refuse(reader, METAQ_NEWER);
    }
    read_grids(reader, at, grids, of->grids + of->bases);
    for (i = 0; i < reader->basis_count && !at->is_bad; i++) {
        metaq_tensor *stream = &reader->bases[i].stream;
        stream->center = grids[of->grids + i].center;
        stream->radius = grids[of->grids + i].radius;
        stream->buckets = grids[of->grids + i].buckets;
        if (stream->center != 0 || stream->buckets % 2 == 0) at->is_bad = 1;
    }
}

static void read_quantised_tensors(metaq_reader *reader, cursor *at) {
    counts of;
    grid *grids;
    uint32_t i;
    memset(&of, 0, sizeof of);
    of.last_grid = SIZE_MAX;
    of.coder = reader->coder;
    read_storage(reader, at, &of);
    reader->basis_count = (size_t)of.bases;
    reader->bases = room(reader, of.bases, sizeof *reader->bases);
    grids = room(reader, of.grids + of.bases, sizeof *grids);
    if (!is_well(reader)) return;
    read_bases(reader, at, &of, grids);
    for (i = 0; i < reader->count && !at->is_bad && is_well(reader); i++) {
        metaq_tensor *tensor = &reader->tensors[i];
        if (tensor->storage != QUANTISED) continue;
        tensor->center = grids[tensor->next].center;
        tensor->radius = grids[tensor->next].radius;
        tensor->buckets = grids[tensor->next].buckets;
        check_quantised(reader, at, tensor);
    }
    if (at->is_bad) refuse(reader, METAQ_DAMAGED);
}

/* ---- Chunks */

static size_t row_length_of(const metaq_tensor *tensor) {
    size_t product = 1, k;
    if (tensor->by_columns) return tensor->dimensions ? tensor->shape[0] : 0;
    for (k = 1; k < tensor->dimensions; k++) product *= tensor->shape[k];
    return tensor->dimensions > 1 ? product : 0;
}

static size_t line_of(const metaq_tensor *tensor) {
    const size_t rows = tensor->dimensions > 1 ? tensor->shape[0] : 1;
    return tensor->by_columns ? rows : tensor->elements / rows;
}

/* By key: the chunk that is open, the stream that it has last, and its symbols. */
typedef struct planner {
    size_t limit, symbols[4];
    uint32_t open[4], last[4];
} planner;

/* Until there is room for chunks, they are counted. */
static void add_chunk(metaq_reader *reader, uint32_t number, int key, size_t start, size_t count, size_t row_length) {
    if (reader->chunks) {
        metaq_chunk *chunk = &reader->chunks[reader->chunk_count];
        chunk->first = number;
        chunk->key = (uint8_t)key;
        chunk->start = start;
        chunk->count = count;
        chunk->row_length = row_length;
    }
    if (start == 0) stream_at(reader, number)->chunk = (uint32_t)reader->chunk_count;
    reader->chunk_count++;
}

static void plan_stream(metaq_reader *reader, planner *of, uint32_t number) {
    metaq_tensor *stream = stream_at(reader, number);
    size_t count = stream->elements, row_length = row_length_of(stream);
    size_t weight = 1, symbols, most;
    int key = stream->storage == QUANTISED ? (int)stream->coder : stream->storage == PLANES ? OF_PLANES : WHOLE_TENSOR;
    stream->next = stream->chunk = NOWHERE;
    if (count == 0 || stream->storage == TIED || stream->storage == INLINE_EXACT) return;
    if (key == WHOLE_TENSOR) {
        add_chunk(reader, number, key, 0, count, row_length);
        return;
    }
    if (key == OF_PLANES && stream->element_size > 2) weight = stream->element_size / 2;
    symbols = weight * count;
    if (symbols > of->limit) {
        size_t start, piece;
        most = of->limit / weight ? of->limit / weight : 1;
        if (row_length > most) row_length = 0;
        piece = row_length ? most / row_length * row_length : most;
        of->open[key] = NOWHERE;
        for (start = 0; start < count; start += least_size(piece, count - start))
            add_chunk(reader, number, key, start, least_size(piece, count - start), row_length);
    } else if (of->open[key] == NOWHERE || of->symbols[key] + symbols > of->limit) {
        of->open[key] = (uint32_t)reader->chunk_count;
        of->symbols[key] = symbols;
        add_chunk(reader, number, key, 0, count, row_length);
        of->last[key] = number;
    } else {
        of->symbols[key] += symbols;
        stream->chunk = of->open[key];
        stream_at(reader, of->last[key])->next = number;
        of->last[key] = number;
    }
}

static void plan_chunks(metaq_reader *reader) {
    planner of;
    uint32_t i;
    int key;
    of.limit = (size_t)1 << reader->chunk_bits;
    for (key = 0; key < 4; key++) of.open[key] = NOWHERE;
    reader->chunk_count = 0;
    for (i = 0; i < reader->basis_count; i++) plan_stream(reader, &of, (uint32_t)reader->count + i);
    for (i = 0; i < reader->count; i++) plan_stream(reader, &of, i);
}

/* The metadatum at a place of the header. */
static metaq_status read_metadatum(cursor *at, metaq_metadatum *found) {
    uint64_t field;
    int k;
    memset(found, 0, sizeof *found);
    found->key_size = varint_up_to(at, SIZE_MAX);
    found->key = (const char *)take(at, found->key_size);
    found->kind = byte_of(at);
    if (at->is_bad || !is_utf8((const uint8_t *)found->key, found->key_size)) return METAQ_DAMAGED;
    if (found->kind == 0) {
        found->text_size = varint_up_to(at, SIZE_MAX);
        found->text = (const char *)take(at, found->text_size);
        if (at->is_bad || !is_utf8((const uint8_t *)found->text, found->text_size)) return METAQ_DAMAGED;
    } else if (found->kind == 1) {
        field = varint_of(at);
        found->integer = field & 1 ? -(int64_t)(field >> 1) - 1 : (int64_t)(field >> 1);
    } else if (found->kind == 2) {
        const uint8_t *bytes = take(at, 8);
        for (field = 0, k = 7; bytes && k >= 0; k--) field = field << 8 | bytes[k];
        found->number = from_bits(field);
    } else {
        return METAQ_NEWER;
    }
    return at->is_bad ? METAQ_DAMAGED : METAQ_OK;
}

static void read_metadata(metaq_reader *reader, cursor *at) {
    metaq_metadatum found, last;
    size_t i;
    reader->metadata = at->next;
    for (i = 0; i < reader->metadata_count && is_well(reader); i++) {
        metaq_status status = read_metadatum(at, &found);
        if (status != METAQ_OK) refuse(reader, status);
        else if (i > 0 &&
                 !is_before((const uint8_t *)last.key, last.key_size, (const uint8_t *)found.key, found.key_size))
            refuse(reader, METAQ_DAMAGED);
        last = found;
    }
    if (at->next != at->end) refuse(reader, METAQ_DAMAGED);
}

static void place_chunks(metaq_reader *reader, cursor *at) {
    size_t position, sizes = 0;
    const size_t checksums = reader->chunk_count > 1 ? 4 * (reader->chunk_count + 1) : 0;
    const size_t end = reader->source.size - 4;
    size_t i;
    if (checksums > end - reader->body) {
        refuse(reader, METAQ_DAMAGED);
        return;
    }
    reader->checksums = reader->body;
    if (checksums && reader->source.is_partial)
        check_crc(reader, 0, reader->body + checksums - 4, reader->body + checksums - 4);
    position = reader->body + checksums;
    for (i = 0; i < reader->chunk_count; i++) {
        reader->chunks[i].position = position + sizes;
        reader->chunks[i].size = varint_up_to(at, end - position - sizes);
        sizes += reader->chunks[i].size;
    }
    if (at->is_bad || position + sizes != end) refuse(reader, METAQ_DAMAGED);
}

#ifdef METAQ_UPDATES

/* Numbers of tensors of the base that the update takes away. */
static void read_removed(metaq_reader *reader, cursor *at) {
    const size_t count = varint_up_to(at, (size_t)(at->end - at->next));
    size_t place = 0, i;
    reader->removed = room(reader, count, sizeof *reader->removed);
    for (i = 0; reader->removed && i < count; i++) {
        place += varint_up_to(at, 1 << 18);
        if (place >= 1 << 18) at->is_bad = 1;
        if (at->is_bad) break;
        reader->removed[i] = (uint32_t)place++;
    }
    if (at->is_bad) refuse(reader, METAQ_DAMAGED);
    reader->removed_count = count;
}

#endif

static void read_header(metaq_reader *reader) {
    cursor at;
    size_t count;
    uint8_t byte;
    memset(&at, 0, sizeof at);
    at.next = reader->header;
    at.end = reader->header_end;
    count = varint_up_to(&at, 1 << 18);
    reader->metadata_count = varint_up_to(&at, 1 << 28);
#ifdef METAQ_UPDATES
    if (reader->base) read_removed(reader, &at);
    if (!is_well(reader)) return;
#endif
    byte = byte_of(&at);
    reader->coder = byte >> 5;
    reader->chunk_bits = byte & 31;
    if (at.is_bad || reader->chunk_bits > 22 || count > (size_t)(at.end - at.next)) {
        refuse(reader, METAQ_DAMAGED);
        return;
    }
    reader->tensors = room(reader, count, sizeof *reader->tensors);
    if (!is_well(reader)) return;
    reader->count = count;
    read_names(reader, &at);
    read_kinds(reader, &at);
    if (!is_well(reader)) return;
    read_quantised_tensors(reader, &at);
    if (!is_well(reader)) return;
    plan_chunks(reader);
    if (reader->chunk_count > (size_t)(at.end - at.next)) {
        refuse(reader, METAQ_DAMAGED);
        return;
    }
    reader->chunks = room(reader, reader->chunk_count, sizeof *reader->chunks);
    if (!is_well(reader)) return;
    plan_chunks(reader);
    place_chunks(reader, &at);
    if (is_well(reader)) read_metadata(reader, &at);
}

/* ---- Streams of a chunk */

/* What a coder is told of a tensor, a piece of one or a field of its bits. */
typedef struct stream {
    size_t count, row_length, done;
#ifdef METAQ_UPDATES
    size_t start; /* in the tensor, in the order of the scan */
#endif
    uint32_t number, alphabet; /* of a tensor */
    uint8_t trellis_bits, is_told;
    int has_rows;
} stream;

#ifndef METAQ_NO_PLANES

/* How a tensor in planes, or a piece of one, is stored. */
typedef struct form {
    size_t count, row_length; /* elements, complex ones counting twice */
    size_t length;            /* bytes of a Zstandard frame, or elements of a palette */
    const uint8_t *fields;    /* a byte each, from the highest bits down */
    int field_count, raw_width, coded_count;
    uint8_t size, way, turn, by_columns;
} form;

enum { WAY_RAW, WAY_ZSTD, WAY_FIELDS, WAY_PALETTE };

#endif

/* Goes over the streams of a chunk. */
typedef struct walk {
    const metaq_reader *reader;
    const metaq_chunk *chunk;
    uint32_t number;
#ifndef METAQ_NO_PLANES
    cursor forms; /* of a chunk in planes */
    form of;
    int field;
#endif
} walk;

static void shape_stream(stream *of, size_t count, size_t row_length) {
    of->count = count;
    of->row_length = row_length;
    of->has_rows = row_length > 0 && row_length < count && count % row_length == 0;
    of->done = 0;
}

/* The tensor, or the piece of one, that a walk comes to; 0 behind the last. */
static int next_piece(walk *at, stream *of) {
    const metaq_tensor *tensor;
    if (at->number == NOWHERE) return 0;
    tensor = stream_at(at->reader, at->number);
    of->number = at->number;
    of->alphabet = tensor->buckets;
    of->trellis_bits = tensor->trellis_bits;
#ifdef METAQ_UPDATES
    of->start = at->number == at->chunk->first ? at->chunk->start : 0;
    of->is_told = relation_of(tensor) == GIVEN || relation_of(tensor) == ADDED;
    if (relation_of(tensor) == GIVEN) {
        of->alphabet = 2 * tensor->buckets - 1;
        of->trellis_bits = 0;
    }
#endif
    if (at->number == at->chunk->first) shape_stream(of, at->chunk->count, at->chunk->row_length);
    else shape_stream(of, tensor->elements, row_length_of(tensor));
    at->number = tensor->next;
    return 1;
}

#ifndef METAQ_NO_PLANES

static void read_fields(cursor *at, form *of) {
    int left = 8 * of->size;
    of->fields = at->next;
    while (left > 0) {
        const int byte = byte_of(at), kind = byte >> 6, width = byte & 63;
        if (kind > 2 || width < 1 || width > left || (kind == 2 && width > 16)) at->is_bad = 1;
        if (at->is_bad) return;
        left -= width;
        of->field_count++;
        if (kind == 1) of->raw_width += width;
        of->coded_count += kind == 2;
    }
    if (of->raw_width > 56 || of->coded_count > 8) at->is_bad = 1;
}

static void read_form(cursor *at, const metaq_tensor *tensor, const stream *piece, form *of) {
    const uint32_t parts = tensor->type == METAQ_COMPLEX64 || tensor->type == METAQ_COMPLEX128 ? 2 : 1;
    const int first = byte_of(at);
    size_t told;
    memset(of, 0, sizeof *of);
    of->count = parts * piece->count;
    of->size = (uint8_t)(tensor->element_size / parts);
    of->way = first & 3;
    of->turn = first >> 2 & 3;
    of->by_columns = (uint8_t)(first >> 4);
    if (first > 31 || of->turn > 2 || (of->way != WAY_FIELDS && of->turn) || (of->way < WAY_FIELDS && first > 3))
        at->is_bad = 1;
    if (of->way == WAY_ZSTD || of->way == WAY_PALETTE) of->length = varint_up_to(at, SIZE_MAX);
    if (of->way == WAY_PALETTE && (of->length < 1 || of->length > 65536)) at->is_bad = 1;
    if (of->way < WAY_FIELDS) return;
    of->coded_count = of->way == WAY_PALETTE;
    told = varint_up_to(at, of->count + 1);
    of->row_length = told ? told - 1 : parts * piece->row_length;
    if (of->way == WAY_FIELDS) read_fields(at, of);
    if (of->by_columns && (of->row_length == 0 || of->count % of->row_length)) at->is_bad = 1;
}

static size_t body_size(const form *of) {
    if (of->way == WAY_RAW) return of->count * of->size;
    if (of->way == WAY_ZSTD) return of->length;
    if (of->way == WAY_PALETTE) return of->length * of->size;
    return (size_t)(((uint64_t)of->count * (uint64_t)of->raw_width + 7) / 8);
}

static int next_field(walk *at, stream *of) {
    for (;;) {
        const int has_fields =
            at->of.way == WAY_FIELDS ? at->field < at->of.field_count : at->of.way == WAY_PALETTE && at->field == 0;
        if (has_fields) {
            const int field = at->of.way == WAY_PALETTE ? 0 : at->of.fields[at->field];
            at->field++;
            if (at->of.way == WAY_FIELDS && field >> 6 != 2) continue;
            of->alphabet = at->of.way == WAY_PALETTE ? (uint32_t)at->of.length : 1u << (field & 63);
            of->trellis_bits = 0;
            if (HAS_UPDATES) of->is_told = 0;
            shape_stream(of, at->of.count, at->of.by_columns ? at->of.count / at->of.row_length : at->of.row_length);
            return 1;
        }
        if (!next_piece(at, of)) return 0;
        read_form(&at->forms, stream_at(at->reader, of->number), of, &at->of);
        at->field = 0;
    }
}

#endif

/* The next stream; 0 behind the last. */
static int next_stream(walk *at, stream *of) {
#ifndef METAQ_NO_PLANES
    if (at->chunk->key == OF_PLANES) return next_field(at, of);
#endif
    return next_piece(at, of);
}

static walk walk_of(const metaq_reader *reader, const metaq_chunk *chunk) {
    walk found;
    memset(&found, 0, sizeof found);
    found.reader = reader;
    found.chunk = chunk;
    found.number = chunk->first;
    return found;
}

/* ---- Trellis */

INLINE uint32_t next_state(int bits, uint32_t state, number level) {
#ifdef METAQ_NO_TRELLIS
    (void)bits, (void)state, (void)level;
    return 0;
#else
    static const uint16_t CHECKS[7][2] = {{05, 02},    {013, 04},    {023, 04},   {045, 010},
                                          {0103, 024}, {0235, 0126}, {0515, 0362}};
    const uint16_t *check = CHECKS[bits - 2];
    return (state ^ (state & 1 ? check[0] : 0) ^ (level & 1 ? check[1] : 0)) >> 1;
#endif
}

/* ---- Elements */

static uint64_t from_bytes(const uint8_t *bytes, size_t size) {
    uint64_t value = 0;
    while (size-- > 0) value = value << 8 | bytes[size];
    return value;
}

static void to_bytes(uint64_t value, uint8_t *bytes, size_t size) {
    for (; size > 0; size--, value >>= 8) *bytes++ = (uint8_t)value;
}

static uint32_t single_bits(float value) {
    uint32_t pattern;
    memcpy(&pattern, &value, sizeof pattern);
    return pattern;
}

static float single_from(uint32_t pattern) {
    float value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

static uint32_t to_bfloat16(float value) {
    const uint32_t pattern = single_bits(value);
    return (uint32_t)(((uint64_t)pattern + 0x7fff + (pattern >> 16 & 1)) >> 16) & 0xffff;
}

/* Bits of a value that is rounded to a type, ties to even. */
static uint64_t rounded(double value, metaq_type type) {
    if (type == METAQ_FLOAT32) return single_bits((float)value);
    if (type == METAQ_FLOAT64) return to_bits(value);
    if (type == METAQ_BFLOAT16) return to_bfloat16((float)value);
    return to_narrow(value, narrow_of(type));
}

static int has_floats(metaq_type type) { return type <= METAQ_BFLOAT16 || type >= METAQ_FLOAT8_E4M3FN; }

static float float_of(uint64_t pattern, metaq_type type) {
    if (type == METAQ_FLOAT32) return single_from((uint32_t)pattern);
    if (type == METAQ_BFLOAT16) return single_from((uint32_t)pattern << 16);
    return (float)from_narrow((uint32_t)pattern, narrow_of(type));
}

#ifdef METAQ_UPDATES

/* ---- The base of an update */

static double double_of(uint64_t pattern, metaq_type type) {
    return type == METAQ_FLOAT64 ? from_bits(pattern) : float_of(pattern, type);
}

/* All elements of the tensor of the base that tells one of the update. */
static const uint8_t *base_of(metaq_reader *reader, const metaq_tensor *tensor) {
    if (reader->base_held != tensor->in_base) {
        metaq_status status = metaq_select(reader->base, tensor->in_base);
        if (status == METAQ_OK) status = metaq_read_all(reader->base, METAQ_ELEMENTS, reader->base_elements);
        if (status != METAQ_OK) refuse(reader, status);
        reader->base_held = tensor->in_base;
    }
    return reader->base_elements;
}

/* The element that comes at a place of the scan. */
static size_t element_at(const metaq_tensor *tensor, size_t place) {
    const size_t line = line_of(tensor);
    return tensor->by_columns ? place % line * (tensor->elements / line) + place / line : place;
}

/* The base at a place of the scan, in units of half a step from the centre of the grid. */
static double halves_at(metaq_reader *reader, const metaq_tensor *tensor, size_t place) {
    const size_t element = element_at(tensor, place), size = tensor->element_size;
    double value = double_of(from_bytes(base_of(reader, tensor) + element * size, size), tensor->type);
    if (tensor->scales) value /= metaq_factor(tensor, element);
    value = (value - tensor->center) * tensor->buckets;
    value /= tensor->radius;
    return value == value ? value : 0;
}

static int32_t floor_within(double value, int32_t low, int32_t high) {
    int32_t found;
    if (value < low) return low;
    if (value >= high) return high;
    found = (int32_t)value;
    return found - (found > value);
}

/* The bucket nearest to the base. */
static int32_t nearest_at(metaq_reader *reader, const metaq_tensor *tensor, size_t place) {
    const int32_t buckets = (int32_t)tensor->buckets;
    return floor_within((halves_at(reader, tensor, place) + buckets) / 2, 0, buckets - 1);
}

static int8_t told_at(metaq_reader *reader, const metaq_tensor *tensor, size_t place) {
    if (tensor->relation == ADDED) return (int8_t)floor_within((halves_at(reader, tensor, place) + 1) / 2, -32, 31);
    return (int8_t)clip(nearest_at(reader, tensor, place) - ((int32_t)tensor->buckets - 1) / 2, -32, 31);
}

/* Bucket indices in place of the symbols that tell them beside the base. */
static void make_indices(metaq_reader *reader, const metaq_tensor *tensor, int32_t *symbols, size_t count,
                         size_t position) {
    const int32_t buckets = (int32_t)tensor->buckets;
    size_t i;
    for (i = 0; i < count; i++) {
        symbols[i] += nearest_at(reader, tensor, position + i) - (buckets - 1);
        if (symbols[i] < 0 || symbols[i] >= buckets) refuse(reader, METAQ_DAMAGED);
    }
}

/* Bits of an element of the base and a value together. */
static uint64_t sum_of(metaq_reader *reader, const metaq_tensor *tensor, size_t element, double value) {
    const size_t size = tensor->element_size;
    const metaq_type type = tensor->type;
    const uint64_t pattern = from_bytes(base_of(reader, tensor) + element * size, size);
    const double base = double_of(pattern, type);
    if (base == base) return rounded(base + double_of(rounded(value, type), type), type);
    if (size == 1) return (pattern & 0x80) | narrow_of(type)->largest_bits;
    return pattern | (uint64_t)1 << (type == METAQ_FLOAT64   ? 51
                                     : type == METAQ_FLOAT32 ? 22
                                     : type == METAQ_FLOAT16 ? 9
                                                             : 6);
}

#endif

/* ---- Coder small */

typedef struct range_decoder {
    input in;
    uint32_t low, offset; /* the code lies so far above low */
    uint64_t width;
} range_decoder;

static void start_range(range_decoder *from) {
    int i;
    from->low = from->offset = 0;
    from->width = (uint64_t)1 << 32;
    for (i = 0; i < 4; i++) from->offset = from->offset << 8 | next_byte(&from->in);
}

INLINE int decide(range_decoder *from, uint32_t probability) {
    uint32_t bound = (uint32_t)(from->width * probability >> 16);
    int decision = from->offset < bound;
    if (decision) {
        from->width = bound;
    } else {
        from->low += bound;
        from->offset -= bound;
        from->width -= bound;
    }
    while (from->width < 1 << 24) {
        from->low <<= 8;
        from->width <<= 8;
        from->offset = from->offset << 8 | next_byte(&from->in);
    }
    return decision;
}

static int plain_bit(range_decoder *from) { return decide(from, 32768); }

static uint64_t plain_bits(range_decoder *from, int count) {
    uint64_t value = 0;
    while (count-- > 0) value = 2 * value + (uint64_t)plain_bit(from);
    return value;
}

static uint64_t plain_number(metaq_reader *reader, range_decoder *from) {
    int digits = 0;
    while (plain_bit(from)) {
        if (++digits > 40) {
            refuse(reader, METAQ_DAMAGED);
            return 0;
        }
    }
    return ((uint64_t)1 << digits) + plain_bits(from, digits) - 1;
}

static void end_range(metaq_reader *reader, const range_decoder *from) {
    uint32_t missing;
    for (missing = 4;; missing--) {
        uint64_t unit = (uint64_t)1 << (8 * missing), tail = (from->low + unit - 1) & ~(unit - 1);
        if (tail >= from->low + from->width) continue;
        if ((uint32_t)(from->low + from->offset) != (uint32_t)tail || !is_at_end(&from->in) ||
            from->in.missing != missing)
            refuse(reader, METAQ_DAMAGED);
        return;
    }
}

/* An adaptive probability. */
#if IS_SMALL
typedef struct slot {
    uint32_t key; /* 4096 (number + 1) + N; 0 of none */
    int32_t p;
} slot;
#else
typedef struct slot {
    int32_t p;
    uint16_t count;
    int16_t input; /* logit of p */
} slot;
#endif

typedef struct expert {
#if IS_SMALL
    int32_t scale;
    uint32_t count;
#else
    int64_t scale;
    uint32_t steepness;
    uint32_t count;
#endif
} expert;

#define CONTEXTS 13
#define EXPERTS 4
#define INPUTS (CONTEXTS + EXPERTS)
#define SETS 6
#define CONFIDENCES 8
#define FIRST_COUNT 3

#if IS_SMALL
typedef int16_t held;
#else
typedef int32_t held;
#endif

/* Of fields of bits in planes. */
#define MOST_FIELD_ALPHABET (IS_SMALL ? 1 << 14 : 1 << 16)

typedef struct small_decoder {
    range_decoder from;
    logits of;
    slot *slots;
    uint32_t slot_count, slots_used; /* room, and in use of a small table */
    int32_t *rates;
    int is_deep;
    uint32_t most_digits; /* of a symbol of any stream */
    /* of the stream */
    number last_shift, mode;
    size_t column, row;
    uint32_t state; /* of the trellis */
    /* what came before: places `at - keep` to `at - 1` */
    held *symbols;
    int16_t *residuals; /* at most 4095 either way, beyond which nobody looks */
    uint16_t *errors;
    size_t at, keep, space;
    /* deep recipe */
    int32_t *weights; /* SETS, INPUTS, CONFIDENCES */
    uint64_t ages[SETS];
    uint8_t confidences[401];
    expert *experts[EXPERTS];
    slot row_slots[3];
    uint32_t first_slots[CONTEXTS], nodes;
    uint32_t *column_counts;
    uint8_t *of_symbols, *of_rows, *new_rows; /* hints, a bit each */
    size_t symbol_hints, row_hints;
#ifdef METAQ_UPDATES
    const int8_t *told; /* by the base, of every symbol of the stream; or NULL */
    uint8_t *told_columns;
    size_t told_length; /* of a row */
#endif
    int follows, period;
    int coefficients[6];
    number base, expected;
    int votes;
    uint32_t flags, row_count;
    int is_empty_row;
    /* of the symbol: first slots of its contexts, and experts */
    uint32_t chosen[CONTEXTS];
    expert *classes[EXPERTS];
    /* wide recipe */
    int64_t *columns; /* scales */
    uint64_t found, expectation;
    int32_t wide_weights[32][4];
    uint32_t first_sign, first_digit;
} small_decoder;

SHARED int32_t rate_of(const small_decoder *d, uint32_t count) {
#if IS_SMALL
    (void)d;
    return (int32_t)((1u << 23) / (2 * count + 3));
#else
    return d->rates[count];
#endif
}

INLINE uint32_t count_of(const slot *of) {
#if IS_SMALL
    return of->key & 4095;
#else
    return of->count;
#endif
}

#define FRESH_P (1 << 29)

INLINE slot *slot_at(small_decoder *d, metaq_reader *reader, uint32_t number) {
#if IS_SMALL
    uint32_t key = (number + 1) << 12;
    uint32_t place = (uint32_t)((uint64_t)(number * 2654435761u) * d->slot_count >> 32);
    for (;;) {
        slot *found = &d->slots[place];
        if ((found->key & ~4095u) == key) return found;
        if (found->key == 0) {
            if (d->slots_used + 1 >= d->slot_count) {
                /* How many slots a code uses is known only when it is decoded. */
                reader->needed =
                    reader->size + reader->size / 2 > reader->needed ? reader->size + reader->size / 2 : reader->needed;
                refuse(reader, METAQ_MEMORY);
                return &d->slots[0];
            }
            d->slots_used++;
            if (d->slots_used > reader->slots_used) reader->slots_used = d->slots_used;
            found->key = key;
            found->p = FRESH_P;
            return found;
        }
        if (++place == d->slot_count) place = 0;
    }
#else
    slot *found = &d->slots[number];
    (void)reader;
    if (found->count == 0) {
        found->p = FRESH_P;
        found->input = 0;
    }
    return found;
#endif
}

INLINE int input_of(const small_decoder *d, const slot *of) {
#if IS_SMALL
    return logit_of(&d->of, (uint32_t)of->p >> 14);
#else
    (void)d;
    return of->input;
#endif
}

INLINE void learn_slot(small_decoder *d, slot *of, int decision, uint32_t limit) {
    uint32_t count = count_of(of);
    of->p += (int32_t)(((decision ? (int64_t)((1 << 30) - 1) - of->p : -(int64_t)of->p) * rate_of(d, count)) >> 22);
#if IS_SMALL
    of->key += count < limit;
#else
    of->count = (uint16_t)(count + (count < limit));
    of->input = (int16_t)logit_of(&d->of, (uint32_t)of->p >> 14);
#endif
}

SHARED uint32_t clipped(int32_t probability) { return (uint32_t)clip(probability, 2, 65534); }

static int decide_by(small_decoder *d, slot *of, uint32_t limit) {
    int decision = decide(&d->from, clipped(of->p >> 14));
    learn_slot(d, of, decision, limit);
    return decision;
}

INLINE int level_of(int value) {
    uint32_t v = least_digits((uint32_t)value, 4095);
    int digits = digits_of(v);
    if (v < 2) return (int)v;
    return (int)least(2 * digits - 1 + (int)(v >> (digits - 2) & 1), 23);
}

static int fine_level_of(uint32_t value) {
    uint32_t v = least_digits(value, 4095);
    int digits = digits_of(v);
    if (v == 0) return 0;
    return (int)largest(4 * digits - 4 + (int)((v << 2 >> (digits - 1)) & 3), 1);
}

/* What came before, moved to the start when there is no more space behind it. */
static void make_space(small_decoder *d) {
    if (d->at < d->keep + d->space) return;
    memmove(d->residuals, d->residuals + d->at - d->keep, d->keep * sizeof *d->residuals);
    if (d->is_deep) {
        memmove(d->symbols, d->symbols + d->at - d->keep, d->keep * sizeof *d->symbols);
        memmove(d->errors, d->errors + d->at - d->keep, d->keep * sizeof *d->errors);
    }
    d->at = d->keep;
}

/* ---- Coder small, deep recipe */

enum { FLAG_NODE, SIGN_NODE, FIRST_LENGTH_NODE };

/* Values of the contexts but the last, whose number depends on the streams. */
static const uint16_t CONTEXT_VALUES[CONTEXTS - 1] = {2, 64, 72, 32, 32, 1024, 66, 27, 256, 64, 9, 123};
#define MOST_COLUMN_NODES 4
#define TOLD_AROUND 256

static int32_t steepness_of(int64_t scale) {
    return (int32_t)((number)WHOLE / largest((number)((185 * scale) >> 8), 256));
}

static void start_deep(metaq_reader *reader, small_decoder *d, size_t most_columns) {
    static const uint16_t SCALES[24] = {2,  2,  2,  2,   2,   4,   5,   8,   11,  16,   22,   32,
                                        45, 64, 90, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048};
    static const uint16_t WEIGHTS[CONFIDENCES] = {0, 1300, 1650, 2300, 2950, 3300, 3300, 2600};
    static const uint16_t EXPERT_WEIGHTS[EXPERTS] = {9000, 9000, 8500, 6000};
    static const uint8_t FROM[CONFIDENCES - 1] = {1, 2, 4, 8, 16, 40, 120};
    uint32_t number = 0, values;
    int i, k, e;
    /* Nodes of digits follow those of lengths; of lengths there are as many as a symbol has digits. */
    d->nodes = FIRST_LENGTH_NODE + 2 * d->most_digits + 8 * least_digits(d->most_digits, 27);
    for (i = 0; i < CONTEXTS; i++) {
        values = i < CONTEXTS - 1 ? CONTEXT_VALUES[i] * d->nodes
                                  : MOST_COLUMN_NODES * (uint32_t)least_size(most_columns, 65536);
        d->first_slots[i] = number;
        number += values;
    }
    d->slot_count = number;
    d->weights = room(reader, SETS * INPUTS * CONFIDENCES, sizeof(int32_t));
    for (e = 0; e < EXPERTS; e++) d->experts[e] = room(reader, e < 2 ? 24 : 576, sizeof(expert));
    if (reader->is_counting || !is_well(reader)) return;
    for (i = 0; i < SETS * INPUTS * CONFIDENCES; i++) {
        int j = i / CONFIDENCES % INPUTS;
        d->weights[i] =
            j >= CONTEXTS ? EXPERT_WEIGHTS[j - CONTEXTS] : (j == 9 || j == 10 ? 3 : 2) * WEIGHTS[i % CONFIDENCES];
    }
    for (e = 0; e < EXPERTS; e++) {
        for (k = 0; k < (e < 2 ? 24 : 576); k++) {
            expert *of = &d->experts[e][k];
            of->scale = 256 * SCALES[k % 24];
            of->count = FIRST_COUNT;
#if !IS_SMALL
            of->steepness = (uint32_t)steepness_of(of->scale);
#endif
        }
    }
    for (i = 0; i <= 400; i++) {
        for (k = 0; k < CONFIDENCES - 1 && FROM[k] <= i; k++) continue;
        d->confidences[i] = (uint8_t)k;
    }
    for (i = 0; i < 3; i++) {
        memset(&d->row_slots[i], 0, sizeof(slot));
        d->row_slots[i].p = FRESH_P;
    }
    memset(d->ages, 0, sizeof d->ages);
    d->symbol_hints = d->row_hints = 0;
}

static int density(uint32_t hits, size_t seen) {
    int k = 0;
    if (hits == 0) return digits_of((uint32_t)least_size(seen, 127));
    while (k < 7 && (size_t)hits << k < seen) k++;
    return 8 * (1 + (hits > 1) + (hits > 3)) + k;
}

static int hint_of(const uint8_t *bits, size_t number, size_t place, size_t length) {
    size_t at = (size_t)((uint64_t)place * number / length);
    return bits[at >> 3] >> (at & 7) & 1;
}

/* Of the first list whose length divides `length`; 2 if there is none. */
static int row_hint(const small_decoder *d, size_t row, size_t rows) {
#ifdef METAQ_UPDATES
    size_t i;
    for (i = 0; d->told; i++) {
        if (i == d->told_length) return 0;
        if (d->told[row * d->told_length + i]) return 1;
    }
#endif
    if (d->symbol_hints && rows % d->symbol_hints == 0) return hint_of(d->of_symbols, d->symbol_hints, row, rows);
    if (d->row_hints && rows % d->row_hints == 0) return hint_of(d->of_rows, d->row_hints, row, rows);
    return 2;
}

static int column_hint(const small_decoder *d, size_t column, size_t columns) {
#ifdef METAQ_UPDATES
    if (d->told) return d->told_columns[column];
#endif
    if (d->row_hints && columns % d->row_hints == 0) return hint_of(d->of_rows, d->row_hints, column, columns);
    if (d->symbol_hints && columns % d->symbol_hints == 0)
        return hint_of(d->of_symbols, d->symbol_hints, column, columns);
    return 2;
}

#ifdef METAQ_UPDATES

/* What the base tells of a stream. */
static void be_told(metaq_reader *reader, small_decoder *d, const stream *of) {
    size_t i;
    d->told = NULL;
    if (!of->is_told || !d->is_deep) return;
    d->told = reader->hints;
    d->told_length = of->row_length;
    for (i = 0; of->has_rows && i < of->row_length; i++) d->told_columns[i] = 0;
    for (i = 0; i < of->count && is_well(reader); i++) {
        reader->hints[i] = told_at(reader, stream_at(reader, of->number), of->start + i);
        if (of->has_rows && reader->hints[i]) d->told_columns[i % of->row_length] = 1;
    }
}

/* What the base tells of a symbol and of those around it, and what came before these. */
static uint32_t surroundings(const small_decoder *d, const stream *of, int left, int above) {
    const int8_t *told = d->told + of->done;
    const size_t length = of->has_rows ? of->row_length : of->count;
    return (uint32_t)(64 * least(size_of(told[0]), 3) + 32 * (d->column > 0 && told[-1]) +
                      16 * (d->column < length - 1 && told[1]) +
                      8 * (of->has_rows && of->done >= length && told[-(ptrdiff_t)length]) +
                      4 * (of->has_rows && of->count - of->done > length && told[length]) + 2 * (left != 0) +
                      (above != 0));
}

#endif

/* Finds contexts and classes of the next symbol. */
static void look(small_decoder *d, const stream *of, int hints) {
    const int16_t *residuals = d->residuals + d->at;
    const uint16_t *errors = d->errors + d->at;
    const size_t length = of->has_rows ? of->row_length : 0, i = of->done;
    const int left = residuals[-1];
    int above = 0, above2 = 0, above_left = 0, above_right = 0;
    int near, across = 0, along, column_density = 0, row_density, left_size, j;
    uint32_t values[CONTEXTS], flags = d->flags, ones = 0, around;
    if (length) {
        above = residuals[-(ptrdiff_t)length];
        above2 = residuals[-(ptrdiff_t)(2 * length)];
        if (d->column > 0) above_left = residuals[-(ptrdiff_t)length - 1];
        if (d->column < length - 1) above_right = residuals[1 - (ptrdiff_t)length];
        across = level_of(2 * errors[-(ptrdiff_t)length] + errors[-(ptrdiff_t)(2 * length)]);
        column_density = density(d->column_counts[d->column], d->row);
    }
    near = level_of(4 * (2 * size_of(left) + size_of(residuals[-2]) + size_of(above)));
    j = i < (size_t)d->period || d->period == 0 ? 1 : d->period;
    along = level_of(2 * errors[-1] + errors[-j] + errors[-2]);
    row_density = density(d->row_count, d->column);
    left_size = size_of(left) > 2 ? 2 : size_of(left);
    d->expected = 16 * d->mode;
    if (d->period) {
        const size_t before[6] = {1, (size_t)d->period, (size_t)d->period + 1, (size_t)d->period - 1, 2, length};
        number sum = 0;
        for (j = 0; j < 6; j++)
            if (before[j] <= i) sum += d->coefficients[j] * (d->symbols[d->at - before[j]] - d->mode);
        d->expected += (16 * sum) >> 5;
    }
    while (flags) {
        flags &= flags - 1;
        ones++;
    }
    values[0] = d->state & 1;
    values[1] = d->flags & 63;
    values[2] = (uint32_t)(24 * left_size + 8 * (size_of(above) > 2 ? 2 : size_of(above)) + 4 * (above_left == 0) +
                           2 * (above_right == 0) + (above2 == 0));
    values[3] = (uint32_t)column_density;
    values[4] = (uint32_t)row_density;
    values[5] = (uint32_t)(32 * column_density + row_density);
    values[6] = 2 * ones + (left == 0);
    values[7] = (uint32_t)(9 * (1 + sign_of(left)) + 3 * (1 + sign_of(above)) + left_size);
    values[8] = (uint32_t)(16 * least(near, 15) + least(across, 15));
    values[9] = (uint32_t)(32 + clip((d->expected - 16 * d->base) >> 3, -32, 31));
    values[10] = (uint32_t)hints;
    values[11] = (uint32_t)(3 * (20 + clip(left, -20, 20)) + 1 + sign_of(above));
    around = (uint32_t)(length ? d->column & 0xffff : 0);
#ifdef METAQ_UPDATES
    if (d->told) {
        values[9] = (uint32_t)(32 + d->told[i]);
        around = surroundings(d, of, left, above);
    }
#endif
    for (j = 0; j < CONTEXTS - 1; j++) d->chosen[j] = d->first_slots[j] + values[j] * d->nodes;
    d->chosen[CONTEXTS - 1] = d->first_slots[CONTEXTS - 1] + MOST_COLUMN_NODES * around;
    d->classes[0] = &d->experts[0][along];
    d->classes[1] = &d->experts[1][across];
    d->classes[2] = &d->experts[2][24 * along + across];
    d->classes[3] = &d->experts[3][24 * near + least(column_density, 23)];
}

/* Mass below residual x, less half, by an expert. */
INLINE int32_t mass_below(const small_decoder *d, number x, number center, int32_t steepness) {
    return cumulative_of(&d->of,
                         clip(((int64_t)(16 * x - 8 - center) * steepness) >> 12, -LARGEST_LOGIT, LARGEST_LOGIT));
}

/* A decision at a node; `low` and `high` are the residuals that bound what it is about. */
INLINE int decide_deep(small_decoder *d, metaq_reader *reader, uint32_t node, int set, number center, number low,
                       number high) {
    slot *slots[CONTEXTS];
    int inputs[INPUTS], j, decision;
    int32_t *used[INPUTS], *weights = d->weights + set * INPUTS * CONFIDENCES;
    int64_t sum = 0;
    int32_t error;
    uint32_t probability;
    const int column_node = node == FLAG_NODE               ? 0
                            : node == SIGN_NODE             ? 1
                            : node == FIRST_LENGTH_NODE + 1 ? 2
                            : node == FIRST_LENGTH_NODE + 3 ? 3
                                                            : -1;
    const int is_digit = set == 5;
    slots[0] = slot_at(d, reader, d->chosen[0] + node);
    for (j = 1; j < CONTEXTS; j++) {
        if (j == CONTEXTS - 1 && column_node < 0) {
            slots[j] = slots[0];
            break;
        }
        slots[j] = slot_at(d, reader, d->chosen[j] + (j == CONTEXTS - 1 ? (uint32_t)column_node : node));
        if (count_of(slots[j]) == 0) {
            slots[j]->p = slots[0]->p;
#if !IS_SMALL
            slots[j]->input = slots[0]->input;
#endif
        }
    }
    for (j = 0; j < CONTEXTS; j++) {
        inputs[j] = input_of(d, slots[j]);
        used[j] = weights + j * CONFIDENCES + d->confidences[count_of(slots[j])];
        sum += (int64_t)*used[j] * inputs[j];
    }
    for (j = 0; j < EXPERTS; j++) {
        const expert *by = d->classes[j];
#if IS_SMALL
        const int32_t steepness = steepness_of(by->scale);
#else
        const int32_t steepness = (int32_t)by->steepness;
#endif
        const number o = j == EXPERTS - 1 ? 0 : center;
        const int32_t below = mass_below(d, low, o, steepness), until = mass_below(d, high, o, steepness),
                      all = (int32_t)WHOLE;
        int32_t one, zero;
        if (node == FLAG_NODE) {
            zero = until - below;
            one = all - zero;
        } else if (node == SIGN_NODE) {
            zero = below;
            one = all - until;
        } else if (!is_digit) {
            zero = until - below;
            one = all - until;
        } else {
            const int32_t middle = mass_below(d, (low + high) / 2, o, steepness);
            zero = middle - below;
            one = until - middle;
        }
        inputs[CONTEXTS + j] =
            logit_of(&d->of, (uint32_t)(((uint64_t)(uint32_t)(one + 64) << 16) / (uint32_t)(one + zero + 128)));
        used[CONTEXTS + j] = weights + (CONTEXTS + j) * CONFIDENCES + d->confidences[by->count];
        sum += (int64_t)*used[CONTEXTS + j] * inputs[CONTEXTS + j];
    }
    probability = clipped(logistic_of(&d->of, sum >> 16));
    decision = decide(&d->from, probability);
    error = ((decision << 16) - (int32_t)probability) * (int32_t)(20 + 280000 / (700 + d->ages[set]));
    for (j = 0; j < INPUTS; j++) {
        const int64_t weight = *used[j] + (((int64_t)inputs[j] * error + (1 << 23)) >> 24);
        if (RARELY(weight != (int32_t)weight)) refuse(reader, METAQ_DAMAGED);
        *used[j] = (int32_t)weight;
    }
    d->ages[set]++;
    for (j = 0; j < CONTEXTS - (column_node < 0); j++) learn_slot(d, slots[j], decision, 400);
    return decision;
}

static number deep_residual(small_decoder *d, metaq_reader *reader, number most) {
    number center = d->expected - 16 * d->base, outward, found = 1;
    int is_positive, digit;
    uint32_t length = 0;
    if (!decide_deep(d, reader, FLAG_NODE, 0, center, 0, 1)) return 0;
    is_positive = d->base == 0 || (d->base != most && decide_deep(d, reader, SIGN_NODE, 1, center, 0, 1));
    outward = is_positive ? center : -center;
    while (decide_deep(d, reader, FIRST_LENGTH_NODE + 2 * length + !is_positive, 2 + (int)least_digits(length, 2),
                       outward, (number)1 << length, (number)2 << length)) {
        /* A residual of more digits than any symbol has leads outside the alphabet. */
        if (++length >= d->most_digits || !is_well(reader)) {
            refuse(reader, METAQ_DAMAGED);
            return 0;
        }
    }
    for (digit = 0; digit < (int)length; digit++) {
        const number worth = (number)1 << ((int)length - 1 - digit);
        int one;
        if (digit >= 3) {
            one = plain_bit(&d->from);
        } else {
            const uint32_t node =
                FIRST_LENGTH_NODE + 2 * d->most_digits + 8 * least_digits(length, 26) + (uint32_t)found;
            one = decide_deep(d, reader, node, 5, outward, 2 * found * worth, (2 * found + 2) * worth);
        }
        found = 2 * found + one;
    }
    return is_positive ? found : -found;
}

static void learn_expert(const small_decoder *d, metaq_reader *reader, expert *of, number deviation) {
    const int64_t scale = of->scale + (((256 * (int64_t)deviation - of->scale) * rate_of(d, of->count)) >> 22);
#if IS_SMALL
    if (scale != (int32_t)scale) refuse(reader, METAQ_LEFT_OUT);
    of->scale = (int32_t)scale;
#else
    (void)reader;
    of->scale = scale;
    of->steepness = (uint32_t)steepness_of(scale);
#endif
    of->count += of->count < 60;
}

static void start_deep_row(small_decoder *d) {
    d->row_count = 0;
    d->base = d->mode;
    d->votes = 1;
    d->state = 0;
}

static void start_deep_stream(metaq_reader *reader, small_decoder *d, const stream *of) {
    int j;
    d->flags = 0;
    d->follows = d->period = 0;
    if (of->has_rows) {
        uint64_t period;
        d->follows = plain_bit(&d->from);
        period = plain_number(reader, &d->from);
        if (period == 1 || period > 255) refuse(reader, METAQ_DAMAGED);
        if (!is_well(reader)) return;
        d->period = (int)period;
        for (j = 0; d->period && j < 6; j++) d->coefficients[j] = (int)plain_bits(&d->from, 7) - 64;
        memset(d->column_counts, 0, of->row_length * sizeof *d->column_counts);
    }
    start_deep_row(d);
}

/* Ends the row, or the stream without rows: what it tells those that follow. */
static void set_bit(uint8_t *bits, size_t place, int is_set) {
    if (place % 8 == 0) bits[place >> 3] = 0;
    bits[place >> 3] |= (uint8_t)(is_set << (place & 7));
}

static void end_deep_row(small_decoder *d, const stream *of) {
    if (!of->has_rows) return;
    set_bit(d->new_rows, d->row, d->row_count > 0);
    if (of->done == of->count) {
        uint8_t *bits = d->of_rows;
        d->of_rows = d->new_rows;
        d->new_rows = bits;
        d->row_hints = of->count / of->row_length;
    }
    d->row++;
    d->column = 0;
    start_deep_row(d);
}

static void decode_deep(metaq_reader *reader, small_decoder *d, stream *of, int32_t *out, size_t count) {
    const number most = (number)of->alphabet - 1, central = most / 2;
    const size_t length = of->has_rows ? of->row_length : of->count, rows = of->count / length;
    const int has_flags = of->has_rows && length >= 4;
    while (count > 0 && is_well(reader)) {
        const int hint = of->has_rows ? row_hint(d, d->row, rows) : 2;
        if (d->column == 0 && has_flags) d->is_empty_row = !decide_by(d, &d->row_slots[hint], 250);
        for (; d->column < length && count > 0; count--) {
            number symbol = d->mode, residual = 0, error = 0;
            make_space(d);
            if (!has_flags || !d->is_empty_row) {
                number deviation;
                int e;
                look(d, of, of->has_rows ? 3 * hint + column_hint(d, d->column, length) : 8);
                residual = deep_residual(d, reader, most);
                symbol = d->base + residual;
                if (symbol < 0 || symbol > most) refuse(reader, METAQ_DAMAGED);
                if (RARELY(!is_well(reader))) return;
                deviation = magnitude_of(16 * symbol - d->expected);
#if !IS_SMALL
                deviation = least(deviation, (int64_t)1 << 35);
#endif
                for (e = 0; e < EXPERTS - 1; e++) learn_expert(d, reader, d->classes[e], deviation);
                learn_expert(d, reader, d->classes[EXPERTS - 1], 16 * magnitude_of(residual));
                error = least(deviation, 4095);
                d->flags = d->flags << 1 | (residual != 0);
                if (symbol != d->mode) {
                    d->row_count++;
                    if (of->has_rows) d->column_counts[d->column]++;
                }
                if (d->follows) {
                    if (residual == 0) d->votes = (int)least(d->votes + 1, 8);
                    else if (d->votes > 0) d->votes--;
                    else d->base = symbol;
                }
                if (of->trellis_bits) d->state = next_state(of->trellis_bits, d->state, symbol - central);
                if (!of->has_rows) set_bit(d->of_symbols, of->done, symbol != d->mode);
            }
            d->symbols[d->at] = (held)symbol;
            d->residuals[d->at] = (int16_t)clip(residual, -4095, 4095);
            d->errors[d->at++] = (uint16_t)error;
            *out++ = (int32_t)symbol;
            d->column++;
            of->done++;
        }
        if (d->column == length) end_deep_row(d, of);
    }
    if (!of->has_rows && of->done == of->count) d->symbol_hints = of->count;
}

/* ---- Coder small, wide recipe */

static void start_wide(small_decoder *d) {
    static const uint16_t VALUES[4] = {2, 48, 96, 576};
    uint32_t number = 0, lengths = d->most_digits + 1;
    int j;
    for (j = 0; j < 4; j++) {
        d->first_slots[j] = number;
        number += VALUES[j] * lengths;
    }
    d->first_sign = number;
    d->first_digit = number + 1;
    d->slot_count = d->first_digit + 8 * lengths;
}

static void start_wide_stream(small_decoder *d, const stream *of) {
    uint32_t k;
    memset(d->slots, 0, d->slot_count * sizeof(slot));
    d->slots_used = 0;
    for (k = 0; k < 32; k++)
        d->wide_weights[k][0] = d->wide_weights[k][1] = d->wide_weights[k][2] = d->wide_weights[k][3] = 17000;
    d->found = d->expectation = 1 << 17;
    if (of->has_rows) memset(d->columns, 0, of->row_length * sizeof *d->columns);
    d->state = 0;
}

static number wide_magnitude(small_decoder *d, metaq_reader *reader, int near, int scale, int *sign) {
    const int parity = (int)(d->state & 1);
    const uint32_t values[4] = {(uint32_t)parity, (uint32_t)(2 * near + parity), (uint32_t)(2 * scale + parity),
                                (uint32_t)(24 * near + (scale >> 1))};
    static const uint16_t VALUES[4] = {2, 48, 96, 576};
    number found = 1;
    uint32_t length = 0, digit;
    int j, decision;
    for (;;) {
        slot *slots[4];
        int inputs[4];
        int64_t sum = 0;
        int32_t error;
        uint32_t probability;
        for (j = 0; j < 4; j++) {
            slots[j] = slot_at(d, reader, d->first_slots[j] + VALUES[j] * length + values[j]);
            inputs[j] = input_of(d, slots[j]);
            sum += (int64_t)d->wide_weights[length][j] * inputs[j];
        }
        probability = clipped(logistic_of(&d->of, sum >> 16));
        decision = decide(&d->from, probability);
        error = 3 * ((decision << 16) - (int32_t)probability);
        for (j = 0; j < 4; j++) {
            const int64_t weight = d->wide_weights[length][j] + (((int64_t)inputs[j] * error + (1 << 19)) >> 20);
            if (RARELY(weight != (int32_t)weight)) refuse(reader, METAQ_DAMAGED);
            d->wide_weights[length][j] = (int32_t)weight;
            learn_slot(d, slots[j], decision, 4000);
        }
        if (!decision) break;
        if (++length > d->most_digits || !is_well(reader)) {
            refuse(reader, METAQ_DAMAGED);
            return 0;
        }
    }
    if (length == 0) return 0;
    *sign = decide_by(d, slot_at(d, reader, d->first_sign), 4000) ? 1 : -1;
    for (digit = 0; digit + 1 < length; digit++) {
        const int one =
            digit < 3 ? decide_by(d, slot_at(d, reader, d->first_digit + 8 * (length - 1) + (uint32_t)found), 4000)
                      : plain_bit(&d->from);
        found = 2 * found + one;
    }
    return found;
}

static void decode_wide(metaq_reader *reader, small_decoder *d, stream *of, int32_t *out, size_t count) {
    const number most = (number)of->alphabet - 1, central = most / 2;
    const uint64_t most_sum = ((uint64_t)1 << 55) - 1;
    const size_t length = of->has_rows ? of->row_length : 0;
    for (; count > 0 && is_well(reader); count--) {
        const int16_t *before;
        int above = 0;
        number found, y;
        int64_t expected = 4096;
        uint64_t ratio;
        int sign = 1;
        make_space(d);
        before = d->residuals + d->at;
        if (of->has_rows) {
            if (d->column == 0) d->state = 0;
            expected = d->columns[d->column];
            if (d->row > 0) above = 2 * before[-(ptrdiff_t)length] + before[length > 1 ? 1 - (ptrdiff_t)length : -1];
        }
        ratio = 256 * d->found / d->expectation;
        if (ratio > 1 << 26) ratio = 1 << 26;
        found = wide_magnitude(
            d, reader, level_of(4 * (2 * before[-1] + before[-2] + above)),
            fine_level_of((uint32_t)clip((int64_t)(ratio * (uint64_t)clip(expected, 0, 1 << 26) >> 14), 0, 4095)),
            &sign);
        *out = (int32_t)(d->mode + sign * found);
        if (d->mode + sign * found < 0 || d->mode + sign * found > most) refuse(reader, METAQ_DAMAGED);
        if (!is_well(reader)) return;
        d->residuals[d->at++] = (int16_t)clip(found, 0, 4095);
        y = 4096 * least(found, 1 << 30);
        d->found += (uint64_t)y;
        if (d->found > most_sum) d->found = most_sum;
        d->expectation += (uint64_t)expected;
        if (d->expectation > most_sum) d->expectation = most_sum;
        if (of->has_rows) {
            d->columns[d->column] =
                expected + (((y - expected) * rate_of(d, (uint32_t)(d->row < 149 ? d->row + 1 : 150))) >> 22);
            if (d->column + 1 == length) {
                const uint64_t mean = d->expectation / (length + 32);
                d->found = d->expectation = 32 * (mean ? mean : 1);
            }
        } else if (d->expectation > 1 << 20) {
            d->found >>= 1;
            d->expectation >>= 1;
        }
        if (of->trellis_bits) d->state = next_state(of->trellis_bits, d->state, *out - central);
        out++;
        of->done++;
        if (++d->column == length) {
            d->column = 0;
            d->row++;
        }
    }
}

static void start_small_stream(metaq_reader *reader, small_decoder *d, const stream *of) {
    const number middle = ((number)of->alphabet - 1) / 2;
    const uint64_t folded = plain_number(reader, &d->from);
    size_t i;
    /* No two modes are so far apart. */
    if (folded > (uint64_t)1 << (IS_SMALL ? 17 : 33)) {
        refuse(reader, METAQ_DAMAGED);
        return;
    }
    d->last_shift += folded & 1 ? -(number)(folded >> 1) - 1 : (number)(folded >> 1);
    d->mode = middle + d->last_shift;
    if (d->mode < 0 || (uint32_t)d->mode >= of->alphabet) refuse(reader, METAQ_DAMAGED);
    if (!is_well(reader)) return;
#ifdef METAQ_UPDATES
    be_told(reader, d, of);
    if (!is_well(reader)) return;
#endif
    d->column = d->row = 0;
    d->at = d->keep;
    for (i = 0; i < d->keep; i++) {
        d->residuals[i] = 0;
        if (d->is_deep) {
            d->symbols[i] = (held)d->mode;
            d->errors[i] = 0;
        }
    }
    if (d->is_deep) start_deep_stream(reader, d, of);
    else start_wide_stream(d, of);
}

/* What the streams of a code need at most. */
typedef struct extents {
    uint32_t alphabet;
    size_t row_length, symbols, rows; /* symbols of a stream without rows, rows of one with them */
    size_t total;                     /* symbols of all */
} extents;

static void extend(extents *of, const stream *by) {
    if (by->alphabet > of->alphabet) of->alphabet = by->alphabet;
    of->total += by->count;
    if (by->has_rows) {
        if (by->row_length > of->row_length) of->row_length = by->row_length;
        if (by->count / by->row_length > of->rows) of->rows = by->count / by->row_length;
    } else if (by->count > of->symbols) {
        of->symbols = by->count;
    }
}

static void start_small(metaq_reader *reader, small_decoder *d, const extents *of) {
    size_t columns;
    int k;
    if (IS_SMALL && of->alphabet > 32767) {
        refuse(reader, METAQ_LEFT_OUT);
        return;
    }
    d->most_digits = (uint32_t)largest(digits_of(of->alphabet - 1), 1);
    d->last_shift = 0;
    make_logits(reader, &d->of);
    d->keep = of->row_length * 2 < 256 ? 258 : of->row_length * 2 + 2;
    if (!of->row_length) d->keep = 2;
    d->space = IS_SMALL ? 64 : of->row_length < 1024 ? 4096 : 4 * of->row_length;
    d->residuals = room(reader, d->keep + d->space, sizeof(int16_t));
#if !IS_SMALL
    d->rates = room(reader, 4001, sizeof(int32_t));
    for (k = 0; d->rates && k <= 4000; k++) d->rates[k] = (int32_t)((1u << 23) / (uint32_t)(2 * k + 3));
#endif
    (void)k;
    /* Of which recipe it is is known when it is read. */
    if (!reader->is_counting && is_well(reader)) {
        start_range(&d->from);
        d->is_deep = plain_bit(&d->from);
    }
    if (reader->is_counting || d->is_deep) {
        d->symbols = room(reader, d->keep + d->space, sizeof(held));
        d->errors = room(reader, d->keep + d->space, sizeof(uint16_t));
        d->column_counts = room(reader, of->row_length, sizeof(uint32_t));
        d->of_symbols = room(reader, of->symbols / 8 + 1, 1);
        d->of_rows = room(reader, of->rows / 8 + 1, 1);
        d->new_rows = room(reader, of->rows / 8 + 1, 1);
#ifdef METAQ_UPDATES
        d->told_columns = room(reader, of->row_length, 1);
#endif
        /* With an update, what is around a symbol takes the place of its column. */
        columns = is_update(reader) && of->row_length < TOLD_AROUND ? TOLD_AROUND : of->row_length;
        start_deep(reader, d, columns ? columns : 1);
    } else {
        d->columns = room(reader, of->row_length, sizeof(int64_t));
        start_wide(d);
    }
    if (!is_well(reader)) return;
#if IS_SMALL
    if (!reader->is_counting) {
        size_t left = (reader->size - reader->used) / sizeof(slot);
        if (left < 2) refuse(reader, METAQ_MEMORY);
        if (d->slot_count > left) d->slot_count = (uint32_t)left;
        d->slots_used = 0;
    }
#endif
    d->slots = room(reader, d->slot_count, sizeof(slot));
}

static void count_small(metaq_reader *reader, const extents *of) {
    small_decoder counted;
    memset(&counted, 0, sizeof counted);
    room(reader, 1, sizeof counted);
    start_small(reader, &counted, of);
}

/* ---- Coder fast */

#ifndef METAQ_NO_FAST

typedef struct block {
    int32_t *residuals;
    size_t count, taken;
} block;

typedef struct fast_decoder {
    cursor at;
    block *blocks;
    uint32_t block_count;
    int width; /* of the number of a block, in bits */
    cursor plan_at;
    bits plan;
    /* of the stream */
    int by_rows, is_split;
    uint32_t state, pair[2];
    size_t column;
} fast_decoder;

/* Tokens whose residuals, with and without the middle of an alphabet, fit an int32. */
INLINE int is_token(int64_t token, int shift, int64_t most_middle) {
    return token >= -((int64_t)1 << (31 - shift)) && token <= INT32_MAX &&
           (token + 1) * ((int64_t)1 << shift) - 1 + most_middle <= INT32_MAX;
}

/* Of a state: 65536 times its index, 4096 times how many bits follow, and the next state without them. */
static void make_states(uint32_t *states, uint16_t *masses, int indices, int table_bits) {
    const uint32_t size = 1u << table_bits;
    uint32_t place = 0, state;
    int index, i;
    for (index = 0; index < indices; index++) {
        for (i = 0; i < masses[index]; i++) {
            states[place] = (uint32_t)index;
            place = (place + size / 2 + size / 8 + 3) & (size - 1);
        }
    }
    for (state = 0; state < size; state++) {
        const uint32_t owner = states[state], number = masses[owner]++;
        const int more = table_bits + 1 - digits_of(number);
        states[state] = owner << 16 | (uint32_t)more << 12 | ((number << more) - size);
    }
}

static void decode_tokens(metaq_reader *reader, cursor *at, const uint32_t *states, int table_bits, int32_t *out,
                          size_t count) {
    low_bits from = {NULL, 0, 0};
    const int lanes = count >= 1024 ? 4 : 1;
    uint32_t state[4] = {0, 0, 0, 0};
    size_t i = 0;
    int lane = 0, zeros = 0;
    from.at = at;
    while (!low_bits_of(&from, 1)) {
        if (++zeros == 8 || at->is_bad) {
            at->is_bad = 1;
            return;
        }
    }
    for (lane = 0; lane < lanes; lane++) state[lane] = (uint32_t)low_bits_of(&from, table_bits);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && !IS_SHORT
    /* As long as eight bytes are there, four lanes take at most 48 bits of them. */
    if (lanes == 4) {
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        const uint8_t *next = at->next;
        uint64_t waiting = from.waiting;
        int left = from.left;
        for (; i + 4 <= count && at->end - next >= 8; i += 4) {
            uint64_t more;
            uint32_t entry;
            memcpy(&more, next, 8);
            waiting |= more << left;
            next += (63 - left) >> 3;
            left |= 56;
#define STEP(s, k)                                                                                                     \
    entry = states[s];                                                                                                 \
    out[i + k] = (int32_t)(entry >> 16);                                                                               \
    s = (entry & 4095) + (uint32_t)(waiting & ((1u << (entry >> 12 & 15)) - 1));                                       \
    left -= (int)(entry >> 12 & 15);                                                                                   \
    waiting >>= entry >> 12 & 15;
            STEP(a, 0)
            STEP(b, 1)
            STEP(c, 2)
            STEP(d, 3)
#undef STEP
        }
        /* Whole bytes that were read too early go back. */
        next -= left >> 3;
        left &= 7;
        at->next = next;
        from.waiting = waiting & ((1u << left) - 1);
        from.left = left;
        state[0] = a, state[1] = b, state[2] = c, state[3] = d;
    }
#endif
    for (lane = 0; i < count && !at->is_bad; i++) {
        const uint32_t entry = states[state[lane]];
        out[i] = (int32_t)(entry >> 16);
        state[lane] = (entry & 4095) + (uint32_t)low_bits_of(&from, (int)(entry >> 12 & 15));
        lane = (lane + 1) & (lanes - 1);
    }
    if (state[0] | state[1] | state[2] | state[3] || from.left) at->is_bad = 1;
    (void)reader;
}

/* Numbers from indices; escapes, which have index 0, are told behind the code. */
static void read_escapes(cursor *at, int32_t *tokens, size_t count, const uint16_t *gaps, int gap_count, int64_t first,
                         int64_t last, int shift, int64_t most_middle) {
    bits from = {NULL, 0, 0};
    size_t i, escapes = 0;
    int order;
    from.at = at;
    order = (int)bits_of(&from, 5);
    for (i = 0; i < count && !at->is_bad; i++) {
        uint64_t number;
        int64_t token;
        if (tokens[i]) {
            tokens[i] = (int32_t)(first + tokens[i] - 1);
            continue;
        }
        number = golomb_of(&from, order);
        if (number < (uint64_t)gap_count) {
            token = first + gaps[number] - 1;
        } else {
            number -= (uint64_t)gap_count;
            token = number & 1 ? first - 1 - (int64_t)((number - 1) / 2) : last + 1 + (int64_t)(number / 2);
        }
        if (!is_token(token, shift, most_middle)) {
            at->is_bad = 1;
            return;
        }
        tokens[i] = (int32_t)token;
        escapes++;
    }
    end_bits(&from);
    if (escapes == 0) at->is_bad = 1;
}

static void read_coded_block(metaq_reader *reader, cursor *at, block *of, int table_bits, int has_escapes,
                             int64_t first, int shift, int64_t most_middle, uint32_t *states, uint16_t *masses,
                             uint16_t *gaps) {
    const uint32_t total = 1u << table_bits;
    bits from = {NULL, 0, 0};
    uint32_t sum = 0, used = 0;
    int count = 1, order = 0, gap_count = 0;
    size_t i;
    from.at = at;
    masses[0] = 0;
    if (has_escapes) {
        uint64_t mass = golomb_of(&from, 0);
        if (mass < 1 || mass > total) {
            at->is_bad = 1;
            return;
        }
        masses[0] = (uint16_t)mass;
        sum = (uint32_t)mass;
        used = 1;
    }
    while (sum < total && !at->is_bad) {
        uint64_t mass = golomb_of(&from, order);
        if (mass > total - sum || count > 4095) {
            at->is_bad = 1;
            return;
        }
        if (mass == 0) gaps[gap_count++] = (uint16_t)count;
        used += mass > 0;
        masses[count++] = (uint16_t)mass;
        sum += (uint32_t)mass;
        order = mass ? (int)largest(digits_of((uint32_t)mass) - 2, 0) : 0;
    }
    if (count < 2 || masses[1] < 1 || used < 2) at->is_bad = 1;
    end_bits(&from);
    if (at->is_bad || !is_token(first + count - 2, shift, most_middle)) {
        at->is_bad = 1;
        return;
    }
    make_states(states, masses, count, table_bits);
    decode_tokens(reader, at, states, table_bits, of->residuals, of->count);
    if (at->is_bad) return;
    if (has_escapes) {
        read_escapes(at, of->residuals, of->count, gaps, gap_count, first, first + count - 2, shift, most_middle);
    } else {
        for (i = 0; i < of->count; i++) of->residuals[i] += (int32_t)(first - 1);
    }
}

static void read_block(metaq_reader *reader, cursor *at, block *of, int64_t most_middle, uint32_t *states,
                       uint16_t *masses, uint16_t *gaps) {
    const int flags = byte_of(at), table_bits = flags & 15, has_escapes = flags >> 4 & 1;
    int shift = 0;
    uint64_t folded;
    int64_t first;
    size_t i;
    if (flags > 63 || (table_bits == 0 ? has_escapes : table_bits < 4 || table_bits > 12)) at->is_bad = 1;
    if (flags & 32) {
        shift = byte_of(at);
        if (shift < 1 || shift > 31) at->is_bad = 1;
    }
    folded = varint_of(at);
    first = folded & 1 ? -(int64_t)(folded >> 1) - 1 : (int64_t)(folded >> 1);
    if (at->is_bad || !is_token(first, shift, most_middle) || !is_token(first - 1, shift, most_middle)) {
        at->is_bad = 1;
        return;
    }
    if (table_bits == 0) {
        for (i = 0; i < of->count; i++) of->residuals[i] = (int32_t)first;
    } else {
        read_coded_block(reader, at, of, table_bits, has_escapes, first, shift, most_middle, states, masses, gaps);
    }
    if (shift && !at->is_bad) {
        low_bits from = {NULL, 0, 0};
        from.at = at;
        for (i = 0; i < of->count && !at->is_bad; i++)
            of->residuals[i] =
                (int32_t)((int64_t)of->residuals[i] * ((int64_t)1 << shift) + (int64_t)low_bits_of(&from, shift));
        if (from.waiting) at->is_bad = 1;
    }
}

/* Passes over the plan of a stream, of which `start_fast_stream` makes use later. */
static void pass_plan(fast_decoder *d, bits *from, const stream *of) {
    const int by_rows = of->has_rows && bit_of(from), is_split = of->trellis_bits > 0 && bit_of(from);
    size_t rows = by_rows ? of->count / of->row_length : 1;
    while (rows-- > 0 && !from->at->is_bad) {
        const uint64_t number = bits_of(from, d->width), other = is_split ? bits_of(from, d->width) : d->block_count;
        if (number >= d->block_count || (is_split && other >= d->block_count) || number == other) from->at->is_bad = 1;
    }
}

/* `plan_at` has moved with the decoder. */
static void start_fast_stream(fast_decoder *d, const stream *of) {
    d->plan.at = &d->plan_at;
    d->column = 0;
    d->state = 0;
    d->by_rows = d->is_split = 0;
    d->pair[0] = d->pair[1] = 0;
    if (d->block_count == 1) return;
    d->by_rows = of->has_rows && bit_of(&d->plan);
    d->is_split = of->trellis_bits > 0 && bit_of(&d->plan);
}

static void decode_fast(metaq_reader *reader, fast_decoder *d, stream *of, int32_t *out, size_t count) {
    const int32_t middle = (int32_t)((of->alphabet - 1) / 2);
    const size_t length = d->by_rows ? of->row_length : of->count;
    for (; count > 0; count--) {
        block *from;
        int32_t residual;
        if (d->block_count > 1 && of->done % length == 0) {
            d->pair[0] = d->pair[1] = (uint32_t)bits_of(&d->plan, d->width);
            if (d->is_split) d->pair[1] = (uint32_t)bits_of(&d->plan, d->width);
        }
        if (of->row_length > 0 && d->column == 0) d->state = 0;
        from = &d->blocks[d->pair[d->is_split ? d->state & 1 : 0]];
        if (!d->is_split) {
            /* A run of one block. */
            size_t run = least_size(count, length - of->done % length), i;
            if (run > from->count - from->taken) {
                refuse(reader, METAQ_DAMAGED);
                return;
            }
            for (i = 0; i < run; i++) {
                residual = from->residuals[from->taken + i];
                if ((uint32_t)(residual + middle) >= of->alphabet) refuse(reader, METAQ_DAMAGED);
                out[i] = residual + middle;
            }
            from->taken += run;
            of->done += run;
            out += run;
            count -= run - 1;
            continue;
        }
        if (from->taken == from->count) {
            refuse(reader, METAQ_DAMAGED);
            return;
        }
        residual = from->residuals[from->taken++];
        if ((uint32_t)(residual + middle) >= of->alphabet) {
            refuse(reader, METAQ_DAMAGED);
            return;
        }
        *out++ = residual + middle;
        d->state = next_state(of->trellis_bits, d->state, residual);
        of->done++;
        if (++d->column == of->row_length) d->column = 0;
    }
}

static void start_fast(metaq_reader *reader, fast_decoder *d, cursor at, walk streams, size_t total,
                       uint32_t most_alphabet) {
    const int64_t most_middle = ((int64_t)most_alphabet - 1) / 2;
    uint32_t *states = room(reader, 4096, sizeof(uint32_t)), i;
    uint16_t *masses = room(reader, 4097, sizeof(uint16_t)), *gaps = room(reader, 4096, sizeof(uint16_t));
    const bits none = {NULL, 0, 0};
    size_t further = 0, left = total;
    int32_t *residuals;
    stream of;
    if (reader->is_counting) {
        /* No encoder finds it worth while to have more blocks. */
        room(reader, least_size(total, 1024), sizeof(block));
        room(reader, total + 1, sizeof(int32_t));
        return;
    }
    further = varint_up_to(&at, total - 1);
    if (at.is_bad || further > (size_t)(at.end - at.next)) {
        refuse(reader, METAQ_DAMAGED);
        return;
    }
    d->block_count = (uint32_t)further + 1;
    d->width = digits_of((uint32_t)further);
    d->blocks = room(reader, d->block_count, sizeof(block));
    if (!is_well(reader)) return;
    for (i = 0; i < further; i++) {
        d->blocks[i].count = varint_up_to(&at, left);
        if (d->blocks[i].count == 0) at.is_bad = 1;
        left -= d->blocks[i].count;
    }
    d->blocks[further].count = left;
    if (left == 0) at.is_bad = 1;
    d->plan_at = at;
    d->plan = none;
    if (further && !at.is_bad) {
        bits from = none;
        from.at = &at;
        while (!at.is_bad && next_stream(&streams, &of)) pass_plan(d, &from, &of);
        end_bits(&from);
    }
    residuals = room(reader, total, sizeof(int32_t));
    for (i = 0; i < d->block_count && !at.is_bad && is_well(reader); i++) {
        d->blocks[i].residuals = residuals;
        residuals += d->blocks[i].count;
        read_block(reader, &at, &d->blocks[i], most_middle, states, masses, gaps);
    }
    if (at.is_bad || (is_well(reader) && at.next != at.end)) refuse(reader, METAQ_DAMAGED);
}

static void end_fast(metaq_reader *reader, const fast_decoder *d) {
    uint32_t i;
    for (i = 0; i < d->block_count; i++)
        if (d->blocks[i].taken != d->blocks[i].count) refuse(reader, METAQ_DAMAGED);
}

#endif

/* ---- Coders */

typedef struct coder {
    uint8_t key;
    cursor at; /* of the coder constant */
    int32_t symbol;
    small_decoder *small;
#ifndef METAQ_NO_FAST
    fast_decoder fast;
#endif
} coder;

/* Bytes of the file in memory. */
static cursor bytes_at(metaq_reader *reader, size_t position, size_t size) {
    cursor found;
    uint8_t *bytes = NULL;
    memset(&found, 0, sizeof found);
    if (reader->source.bytes) {
        found.next = reader->source.bytes + position;
    } else {
        found.next = bytes = room(reader, size, 1);
        if (bytes) fetch(reader, position, bytes, (size_t)size);
    }
    found.end = found.next ? found.next + size : NULL;
    return found;
}

/* Prepares for the streams whose code the file has at a place. */
static void start_coder(metaq_reader *reader, coder *d, int key, size_t position, size_t size, const walk *streams) {
    walk each = *streams;
    extents most;
    stream of;
    memset(&most, 0, sizeof most);
    while (next_stream(&each, &of)) extend(&most, &of);
    d->key = (uint8_t)key;
    if (key == SMALL && reader->is_counting) {
        count_small(reader, &most);
    } else if (key == SMALL) {
        d->small = room(reader, 1, sizeof *d->small);
        if (!d->small) return;
        start_input(&d->small->from.in, reader, position, size);
        start_small(reader, d->small, &most);
    } else if (key == CONSTANT) {
        d->at = bytes_at(reader, position, size);
#ifndef METAQ_NO_FAST
    } else if (key == FAST) {
        cursor at = bytes_at(reader, position, size);
        start_fast(reader, &d->fast, at, *streams, most.total, most.alphabet);
#endif
    } else {
        refuse(reader, METAQ_LEFT_OUT);
    }
}

static void start_coder_stream(metaq_reader *reader, coder *d, const stream *of) {
    if (d->key == CONSTANT) {
        d->symbol = (int32_t)varint_up_to(&d->at, (size_t)of->alphabet - 1);
        if (d->at.is_bad) refuse(reader, METAQ_DAMAGED);
    } else if (d->key == SMALL) {
        start_small_stream(reader, d->small, of);
#ifndef METAQ_NO_FAST
    } else {
        start_fast_stream(&d->fast, of);
#endif
    }
}

/* The next symbols of the stream, as many as `count`, which are there. */
static void decode_symbols(metaq_reader *reader, coder *d, stream *of, int32_t *out, size_t count) {
    size_t i;
    if (d->key == CONSTANT) {
        for (i = 0; i < count; i++) out[i] = d->symbol;
        of->done += count;
    } else if (d->key == SMALL) {
        if (d->small->is_deep) decode_deep(reader, d->small, of, out, count);
        else decode_wide(reader, d->small, of, out, count);
#ifndef METAQ_NO_FAST
    } else {
        decode_fast(reader, &d->fast, of, out, count);
#endif
    }
}

static void end_coder(metaq_reader *reader, const coder *d) {
    if (d->key == CONSTANT && d->at.next != d->at.end) refuse(reader, METAQ_DAMAGED);
    if (d->key == SMALL) end_range(reader, &d->small->from);
#ifndef METAQ_NO_FAST
    if (d->key == FAST) end_fast(reader, &d->fast);
#endif
}

/* Puts an element where a format has it. */
SHARED void put(uint8_t *out, double value, metaq_type type, metaq_format format) {
    if (type == METAQ_FLOAT32) {
        const float single = (float)value;
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
        if (format == METAQ_ELEMENTS) {
            to_bytes(single_bits(single), out, 4);
            return;
        }
#endif
        memcpy(out, &single, sizeof single);
    } else if (format == METAQ_FLOATS) {
        const float single = float_of(rounded(value, type), type);
        memcpy(out, &single, sizeof single);
    } else {
        to_bytes(rounded(value, type), out, ELEMENT_SIZES[type]);
    }
}

#ifdef METAQ_UPDATES

/* Puts what an element of the base and a value are together. */
static void put_sum(metaq_reader *reader, const metaq_tensor *tensor, uint8_t *out, size_t element, double value,
                    metaq_format format) {
    const uint64_t pattern = sum_of(reader, tensor, element, value);
    float single;
    if (format == METAQ_ELEMENTS) {
        to_bytes(pattern, out, tensor->element_size);
        return;
    }
    single = float_of(pattern, tensor->type);
    memcpy(out, &single, sizeof single);
}

#endif

/* ---- A chunk that is being decoded */

typedef struct metaq_decoder {
    uint32_t chunk;
    walk streams;
    stream of; /* the tensor, or the piece of one, that is being read */
    int is_over;
    coder by;
    size_t position;      /* of an exact tensor that is in the file as it is */
    const uint8_t *bytes; /* elements of an exact tensor that is not, or of all tensors of the chunk */
    int32_t scratch[SCRATCH];
} metaq_decoder;

/* A Zstandard frame, which names no size, has no checksum and no flag without a meaning. */
static void decode_frame(metaq_reader *reader, const uint8_t *frame, size_t size, uint8_t *out, size_t out_size) {
    const metaq_source *source = &reader->source;
    if (!source->zstd) refuse(reader, METAQ_ZSTD);
    else if (size == 0 || frame[0] & 0xec || source->zstd(source->user, frame, size, out, out_size))
        refuse(reader, METAQ_DAMAGED);
}

#ifndef METAQ_NO_PLANES

/* Where an element is that comes at a place of the code: in a matrix that is taken column by column, or there. */
static size_t place_of(const form *of, size_t i) {
    const size_t rows = of->by_columns ? of->count / of->row_length : 1;
    return of->by_columns ? i % rows * of->row_length + i / rows : i;
}

/* The raw bits of all elements: the lowest ones of the lowest field first. */
static void read_raw_bits(metaq_reader *reader, cursor body, const form *of, uint8_t *out) {
    low_bits from = {NULL, 0, 0};
    size_t i;
    if (of->raw_width == 0) return;
    from.at = &body;
    for (i = 0; i < of->count; i++) {
        uint8_t *element = out + place_of(of, i) * of->size;
        uint64_t value = from_bytes(element, of->size);
        int field, shift = 0;
        for (field = of->field_count - 1; field >= 0; field--) {
            const int width = of->fields[field] & 63;
            if (of->fields[field] >> 6 == 1) value |= low_bits_of(&from, width) << shift;
            shift += width;
        }
        to_bytes(value, element, of->size);
    }
    if (from.waiting) refuse(reader, METAQ_DAMAGED);
}

static void turn_back(const form *of, uint8_t *out) {
    const int highest = 8 * of->size - 1;
    size_t i;
    for (i = 0; of->turn && i < of->count; i++) {
        uint64_t value = from_bytes(out + i * of->size, of->size);
        value = of->turn == 1 ? value >> 1 | (value & 1) << highest : value ^ (uint64_t)1 << highest;
        to_bytes(value, out + i * of->size, of->size);
    }
}

/* Puts the symbols of a field, which has its lowest bit at `shift`, or chooses from a palette. */
static void decode_field(metaq_reader *reader, coder *by, stream *of, const form *as, int shift, const uint8_t *palette,
                         uint8_t *out, int32_t *scratch, size_t most) {
    size_t first = 0;
    start_coder_stream(reader, by, of);
    while (of->done < of->count && is_well(reader)) {
        size_t count = least_size(most, of->count - of->done), i;
        decode_symbols(reader, by, of, scratch, count);
        if (!is_well(reader)) return;
        for (i = 0; i < count; i++) {
            uint8_t *element = out + place_of(as, first + i) * as->size;
            if (palette) memcpy(element, palette + (size_t)scratch[i] * as->size, as->size);
            else to_bytes(from_bytes(element, as->size) | (uint64_t)(uint32_t)scratch[i] << shift, element, as->size);
        }
        first += count;
    }
}

static void decode_piece(metaq_reader *reader, metaq_decoder *d, walk *fields, const form *of, cursor body,
                         uint8_t *out) {
    const size_t size = of->count * of->size;
    int field, shift = 8 * of->size;
    stream each;
    if (of->way == WAY_RAW) {
        memcpy(out, body.next, size);
        return;
    }
    if (of->way == WAY_ZSTD) {
        decode_frame(reader, body.next, of->length, out, size);
        return;
    }
    if (of->way == WAY_PALETTE) {
        next_field(fields, &each);
        decode_field(reader, &d->by, &each, of, 0, body.next, out, d->scratch, SCRATCH);
    }
    for (field = 0; field < of->field_count && is_well(reader); field++) {
        shift -= of->fields[field] & 63;
        if (of->fields[field] >> 6 != 2) continue;
        next_field(fields, &each);
        decode_field(reader, &d->by, &each, of, shift, NULL, out, d->scratch, SCRATCH);
    }
    if (of->way == WAY_FIELDS && is_well(reader)) {
        read_raw_bits(reader, body, of, out);
        turn_back(of, out);
    }
}

/* Decodes all tensors of a chunk, or the piece of one. */
static void start_planes(metaq_reader *reader, metaq_decoder *d, const metaq_chunk *chunk) {
    cursor at = bytes_at(reader, chunk->position, chunk->size), bodies;
    walk pieces = walk_of(reader, chunk), fields;
    const uint8_t *start = at.next;
    size_t total = 0;
    int key = byte_of(&at), coded = 0;
    extents most;
    form as;
    stream of;
    uint8_t *out;
    fields = pieces;
    fields.forms = at;
    memset(&most, 0, sizeof most);
    while (next_piece(&pieces, &of)) {
        total += of.count * stream_at(reader, of.number)->element_size;
        /* Complex numbers are pairs; forms may tell other rows, which is known when they are read. */
        of.alphabet = MOST_FIELD_ALPHABET;
        shape_stream(&of, 2 * of.count, 2 * of.row_length);
        extend(&most, &of);
        if (reader->is_counting || at.is_bad) continue;
        shape_stream(&of, of.count / 2, of.row_length / 2);
        read_form(&at, stream_at(reader, of.number), &of, &as);
        coded += as.coded_count;
    }
    d->bytes = out = room(reader, total, 1);
    if (reader->is_counting) {
        count_small(reader, &most);
        return;
    }
    if (at.is_bad || (coded ? key != SMALL && key != FAST : key != CONSTANT)) refuse(reader, METAQ_DAMAGED);
    if (!is_well(reader)) return;
    /* Bodies follow the forms, and the code of the fields follows them. */
    bodies = at;
    pieces = walk_of(reader, chunk);
    pieces.forms = fields.forms;
    while (next_piece(&pieces, &of)) {
        read_form(&pieces.forms, stream_at(reader, of.number), &of, &as);
        take(&at, body_size(&as));
    }
    if (at.is_bad || (!coded && at.next != at.end)) refuse(reader, METAQ_DAMAGED);
    if (!is_well(reader)) return;
    fields.of.way = WAY_RAW;
    if (coded)
        start_coder(reader, &d->by, key, chunk->position + (size_t)(at.next - start), (size_t)(at.end - at.next),
                    &fields);
    pieces = walk_of(reader, chunk);
    pieces.forms = fields.forms;
    while (is_well(reader) && next_piece(&pieces, &of)) {
        cursor body = bodies;
        read_form(&pieces.forms, stream_at(reader, of.number), &of, &as);
        body.next = take(&bodies, body_size(&as));
        body.end = bodies.next;
        decode_piece(reader, d, &fields, &as, body, out);
        out += as.count * as.size;
    }
    if (coded && is_well(reader)) end_coder(reader, &d->by);
}

#endif

static void start_whole(metaq_reader *reader, metaq_decoder *d, const metaq_chunk *chunk) {
    const metaq_tensor *tensor = stream_at(reader, chunk->first);
    const size_t size = tensor->elements * tensor->element_size;
    uint8_t *out;
    cursor at;
    if (tensor->storage == RAW) {
        d->position = chunk->position;
        if (chunk->size != size && !reader->is_counting) refuse(reader, METAQ_DAMAGED);
        return;
    }
    at = bytes_at(reader, chunk->position, chunk->size);
    d->bytes = out = room(reader, size, 1);
    if (reader->is_counting || !is_well(reader)) return;
    decode_frame(reader, at.next, chunk->size, out, size);
}

/* Goes on to the next tensor of the chunk. */
static void next_in_chunk(metaq_reader *reader, metaq_decoder *d) {
    const uint8_t key = reader->chunks[d->chunk].key;
    if (d->bytes) d->bytes += d->of.count * stream_at(reader, d->of.number)->element_size;
    if (!next_piece(&d->streams, &d->of)) {
        d->is_over = 1;
        if (key < OF_PLANES) end_coder(reader, &d->by);
    } else if (key < OF_PLANES) {
        start_coder_stream(reader, &d->by, &d->of);
    }
}

/* While counting, what a chunk needs is found without reading it. */
static void start_chunk(metaq_reader *reader, uint32_t number) {
    const metaq_chunk *chunk = &reader->chunks[number];
    metaq_decoder *d, counted;
    walk streams;
    reader->used = reader->kept;
    reader->decoder = NULL;
    d = room(reader, 1, sizeof *d);
    if (!is_well(reader)) return;
    if (reader->is_counting) {
        d = &counted;
        memset(d, 0, sizeof *d);
    } else if (reader->chunk_count > 1) {
        check_crc(reader, chunk->position, chunk->size, reader->checksums + 4 * (size_t)number);
    }
    d->chunk = number;
    d->streams = streams = walk_of(reader, chunk);
    if (!is_well(reader)) return;
    if (chunk->key < OF_PLANES) start_coder(reader, &d->by, chunk->key, chunk->position, chunk->size, &streams);
    else if (chunk->key == WHOLE_TENSOR) start_whole(reader, d, chunk);
#ifndef METAQ_NO_PLANES
    else start_planes(reader, d, chunk);
#else
    else refuse(reader, METAQ_LEFT_OUT);
#endif
    if (reader->is_counting || !is_well(reader)) return;
    next_piece(&d->streams, &d->of);
    if (chunk->key < OF_PLANES) start_coder_stream(reader, &d->by, &d->of);
    if (is_well(reader)) reader->decoder = d;
}

/* The next symbols of the tensor, wherever its pieces are. */
static void next_symbols(metaq_reader *reader, int32_t *out, size_t count) {
    while (count > 0 && is_well(reader)) {
        metaq_decoder *d = reader->decoder;
        size_t now;
        if (d->is_over) {
            start_chunk(reader, d->chunk + 1);
            continue;
        }
        now = least_size(count, d->of.count - d->of.done);
        decode_symbols(reader, &d->by, &d->of, out, now);
        if (is_well(reader) && d->of.done == d->of.count) next_in_chunk(reader, d);
        out += now;
        count -= now;
    }
}

/* Streams as they stand in chunks: the bases before the tensors. */
static size_t order_of(const metaq_reader *reader, uint32_t number) {
    return number < reader->count ? number + reader->basis_count : number - reader->count;
}

/* Comes to the start of a stream, from what comes before it in its chunk if that is at hand. */
static void come_to(metaq_reader *reader, uint32_t number) {
    const uint32_t chunk = stream_at(reader, number)->chunk;
    metaq_decoder *d = reader->decoder;
    int is_ahead;
    if (chunk == NOWHERE) return;
    is_ahead = d && !d->is_over && d->chunk == chunk &&
               (d->of.number == number ? d->of.done == 0 : order_of(reader, d->of.number) < order_of(reader, number));
    if (!is_ahead) start_chunk(reader, chunk);
    while (is_well(reader) && (d = reader->decoder)->of.number != number) {
        while (reader->chunks[chunk].key < OF_PLANES && is_well(reader) && d->of.done < d->of.count)
            decode_symbols(reader, &d->by, &d->of, d->scratch, least_size(SCRATCH, d->of.count - d->of.done));
        if (is_well(reader)) next_in_chunk(reader, d);
    }
}

#ifndef METAQ_NO_BASIS

static void load_basis(metaq_reader *reader, uint32_t number) {
    metaq_basis *basis = &reader->bases[number];
    const size_t size = basis->size;
    const int64_t middle = ((int64_t)basis->stream.buckets - 1) / 2;
    int32_t part[64];
    size_t i, j, row;
    come_to(reader, (uint32_t)(reader->count + number));
    for (i = 0; i < size * size && is_well(reader); i += j) {
        const size_t count = least_size(64, size * size - i);
        next_symbols(reader, part, count);
        if (!is_well(reader)) return;
        for (j = 0; j < count; j++) {
            const size_t place = (i + j) % size * size + (i + j) / size;
            const int32_t numerator = 2 * (part[j] - (int32_t)middle);
            if (basis->is_narrow) ((int16_t *)basis->numerators)[place] = (int16_t)numerator;
            else ((int32_t *)basis->numerators)[place] = (int32_t)numerator;
        }
    }
    for (i = 0; i < size && is_well(reader); i++) {
        int64_t sum = 0;
        for (row = 0; row < size; row++)
            sum += (int64_t)magnitude_of(basis->is_narrow ? ((int16_t *)basis->numerators)[i * size + row]
                                                          : ((int32_t *)basis->numerators)[i * size + row]);
        basis->column_sum = basis->column_sum > sum ? basis->column_sum : sum;
    }
}

/* Room for the bases, which are decoded when they are needed first. */
static void make_bases(metaq_reader *reader) {
    size_t i, most = 0;
    for (i = 0; i < reader->basis_count; i++) {
        metaq_basis *basis = &reader->bases[i];
        basis->is_narrow = basis->stream.buckets <= 32768;
        basis->numerators = room(reader, basis->stream.elements, basis->is_narrow ? sizeof(int16_t) : sizeof(int32_t));
        if (basis->size > most) most = basis->size;
    }
    reader->row = room(reader, most, sizeof(int32_t));
    reader->narrow_row = room(reader, most, sizeof(int16_t));
}

#ifndef METAQ_OWN_PRODUCT /* a build may have a faster one */
static int32_t narrow_product(const int16_t *left, const int16_t *right, size_t count) {
    int32_t sum = 0;
    size_t i;
    for (i = 0; i < count; i++) sum += (int32_t)left[i] * right[i];
    return sum;
}
#endif

static double basis_unit(const metaq_tensor *tensor, const metaq_basis *basis) {
    const double radii = tensor->radius * basis->stream.radius,
                 counts = (double)tensor->buckets * basis->stream.buckets;
    return radii / counts;
}

/* Element j of the row that is in `row`, before the scales. */
static double combined(const metaq_reader *reader, const metaq_basis *basis, size_t j, int is_narrow) {
    const size_t size = basis->size;
    int64_t sum = 0;
    size_t k;
    if (is_narrow) return narrow_product(reader->narrow_row, (const int16_t *)basis->numerators + j * size, size);
    for (k = 0; k < size; k++)
        sum += (int64_t)reader->row[k] * (basis->is_narrow ? ((const int16_t *)basis->numerators)[j * size + k]
                                                           : ((const int32_t *)basis->numerators)[j * size + k]);
    return (double)sum;
}

#endif

/* ---- Reading */

/* Numbers of the formula of the grid in place of symbols. */
static void make_numerators(metaq_reader *reader, const metaq_tensor *tensor, int32_t *symbols, size_t count,
                            size_t position, size_t line) {
    const int32_t buckets = (int32_t)tensor->buckets, middle = (buckets - 1) / 2;
    size_t i, column = position % line;
#ifdef METAQ_UPDATES
    if (tensor->relation == GIVEN) make_indices(reader, tensor, symbols, count, position);
#endif
    if (tensor->trellis_bits == 0) {
        for (i = 0; i < count; i++) symbols[i] = 2 * symbols[i] + 1 - buckets;
        return;
    }
    for (i = 0; i < count; i++) {
        const int32_t level = symbols[i] - middle;
        if (column == 0) reader->trellis_state = 0;
        if (++column == line) column = 0;
        symbols[i] = 2 * level - (reader->trellis_state & 1 ? sign_of(level) : 0);
        reader->trellis_state = next_state(tensor->trellis_bits, reader->trellis_state, level);
    }
}

static void read_on_grid(metaq_reader *reader, const metaq_tensor *tensor, metaq_format format, uint8_t *out,
                         const metaq_span *span) {
    int32_t *scratch = reader->scratch;
    const size_t line = line_of(tensor), size = format == METAQ_ELEMENTS ? tensor->element_size : 4;
    size_t done = 0;
    while (done < span->count && is_well(reader)) {
        const size_t count = least_size(SCRATCH, span->count - done);
        size_t i;
        next_symbols(reader, scratch, count);
        if (!is_well(reader)) return;
        make_numerators(reader, tensor, scratch, count, reader->position, line);
        if (format == METAQ_INTEGERS) {
            memcpy(out, scratch, count * sizeof *scratch);
#ifdef METAQ_UPDATES
        } else if (tensor->relation == ADDED) {
            for (i = 0; i < count; i++) {
                const size_t element = span->start + (done + i) * span->stride;
                double value = value_of(tensor->center, tensor->radius, tensor->buckets, scratch[i]);
                if (tensor->scales) value *= metaq_factor(tensor, element);
                put_sum(reader, tensor, out + i * size, element, value, format);
            }
#endif
        } else if (tensor->scales) {
            for (i = 0; i < count; i++) {
                const double value = value_of(tensor->center, tensor->radius, tensor->buckets, scratch[i]);
                put(out + i * size, value * metaq_factor(tensor, span->start + (done + i) * span->stride), tensor->type,
                    format);
            }
        } else {
            for (i = 0; i < count; i++)
                put(out + i * size, value_of(tensor->center, tensor->radius, tensor->buckets, scratch[i]), tensor->type,
                    format);
        }
        out += count * size;
        done += count;
        reader->position += count;
    }
}

#ifndef METAQ_NO_BASIS

static void read_combined(metaq_reader *reader, const metaq_tensor *tensor, metaq_format format, uint8_t *out,
                          const metaq_span *span) {
    const metaq_basis *basis = &reader->bases[tensor->basis];
    const double unit = basis_unit(tensor, basis);
    const size_t size = format == METAQ_ELEMENTS ? tensor->element_size : 4;
    const int is_narrow =
        basis->is_narrow && tensor->buckets <= 32768 && ((int64_t)tensor->buckets - 1) * basis->column_sum <= INT32_MAX;
    size_t i, column = reader->position % basis->size;
    if (!((double)(tensor->buckets - 1) * (double)basis->column_sum * unit * largest_factor(tensor) <=
          largest_of(tensor->type)))
        refuse(reader, METAQ_DAMAGED);
    if (!is_well(reader)) return;
    if (column == 0) {
        next_symbols(reader, reader->row, basis->size);
        if (!is_well(reader)) return;
        make_numerators(reader, tensor, reader->row, basis->size, reader->position, basis->size);
        for (i = 0; is_narrow && i < basis->size; i++) reader->narrow_row[i] = (int16_t)reader->row[i];
    }
    for (i = 0; i < span->count; i++) {
        double value = combined(reader, basis, column + i, is_narrow) * unit;
        if (tensor->scales) value *= metaq_factor(tensor, span->start + i);
#ifdef METAQ_UPDATES
        if (tensor->relation == ADDED) {
            put_sum(reader, tensor, out + i * size, span->start + i, value, format);
            continue;
        }
#endif
        put(out + i * size, value, tensor->type, format);
    }
    reader->position += span->count;
}

#endif

/* Elements that are stored exactly. */
static void read_exact_elements(metaq_reader *reader, const metaq_tensor *tensor, metaq_format format, uint8_t *out,
                                size_t count) {
    metaq_decoder *d = reader->decoder;
    const size_t size = tensor->element_size;
    uint8_t raw[16];
#ifdef METAQ_UPDATES
    uint8_t sum[8];
#endif
    size_t i;
    for (i = 0; i < count && is_well(reader); i++) {
        const uint8_t *element = raw;
        if (tensor->storage == INLINE_EXACT) {
            element = tensor->elements_in_header + reader->position * size;
        } else {
            if (d->is_over) {
                start_chunk(reader, d->chunk + 1);
                if (!is_well(reader)) return;
                d = reader->decoder;
            }
            if (d->bytes) element = d->bytes + d->of.done * size;
            else fetch(reader, d->position + d->of.done * size, raw, size);
            d->of.done++;
        }
#ifdef METAQ_UPDATES
        if (tensor->relation == DIFFERENCES) {
            const uint64_t told = from_bytes(element, size);
            const uint64_t base = from_bytes(base_of(reader, tensor) + reader->position * size, size);
            to_bytes(base + ((told >> 1) ^ (0 - (told & 1))), sum, size);
            element = sum;
        }
#endif
        reader->position++;
        if (tensor->type == METAQ_BOOL && *element > 1) refuse(reader, METAQ_DAMAGED);
        if (format == METAQ_FLOATS) {
            const float value = float_of(from_bytes(element, size), tensor->type);
            memcpy(out, &value, sizeof value);
            out += sizeof value;
        } else {
            memcpy(out, element, size);
            out += size;
        }
        if (tensor->storage != INLINE_EXACT && d->of.done == d->of.count) next_in_chunk(reader, d);
    }
}

/* ---- What others call */

metaq_source metaq_in_memory(const void *bytes, size_t size) {
    static const uint8_t NOTHING[1];
    metaq_source source;
    memset(&source, 0, sizeof source);
    /* Without bytes the source would be read by `read`, which is not there. */
    source.bytes = bytes ? bytes : NOTHING;
    source.size = bytes ? size : 0;
    return source;
}

/* Reads the start of the file; the size of the coded header is left in `size`, and its place is returned. */
static size_t read_preamble(metaq_reader *reader, size_t *size) {
    const size_t file = reader->source.size;
    const size_t fixed = is_update(reader) ? 17 : 5; /* bytes before the size of the header */
    uint8_t start[26];
    cursor at;
    memset(start, 0, sizeof start);
    fetch(reader, 0, start, least_size(file, sizeof start));
    if (!is_well(reader)) return 0;
    if (file < 4 || start[0] != 0x8f || start[1] != 0x4d || start[2] != 0x54 || (start[3] != 0x51 && start[3] != 0x44))
        refuse(reader, METAQ_NO_FILE);
    else if (file > 4 && start[4] != 1) refuse(reader, METAQ_NEWER);
    else if (file < 9) refuse(reader, METAQ_DAMAGED);
    if (is_well(reader) && !reader->source.is_partial) check_crc(reader, 0, file - 4, file - 4);
    if (is_well(reader) && !is_update(reader) && start[3] == 0x44) refuse(reader, METAQ_IS_UPDATE);
    if (is_well(reader) && is_update(reader) && start[3] == 0x51) refuse(reader, METAQ_NO_UPDATE);
    if (is_well(reader) && is_update(reader) && file < fixed + 4) refuse(reader, METAQ_DAMAGED);
    if (!is_well(reader)) return 0;
    memset(&at, 0, sizeof at);
    at.next = start + fixed;
    at.end = start + least_size(file - 4, fixed + 9);
    *size = varint_up_to(&at, file - fixed - 4);
    if (at.is_bad || (size_t)(at.next - start) + *size > file - 4) refuse(reader, METAQ_DAMAGED);
    return (size_t)(at.next - start);
}

static void unpack_header(metaq_reader *reader) {
    size_t coded = 0, size, position = read_preamble(reader, &coded);
    uint8_t start[9], *header;
    size_t mark;
    cursor at;
    input in;
    if (!is_well(reader)) return;
    fetch(reader, position, start, least_size(coded, sizeof start));
    memset(&at, 0, sizeof at);
    at.next = start;
    at.end = start + least_size(coded, sizeof start);
    size = varint_up_to(&at, (size_t)1 << 28);
    if (at.is_bad || size / 400 > coded - (size_t)(at.next - start) + 8 ||
        (size / 400 == coded - (size_t)(at.next - start) + 8 && size % 400))
        refuse(reader, METAQ_DAMAGED);
    header = room(reader, size, 1);
    mark = reader->used;
    if (!is_well(reader)) return;
    start_input(&in, reader, position + (size_t)(at.next - start), coded - (size_t)(at.next - start));
    decode_header(reader, &in, header, size);
    reader->header = header;
    reader->header_end = header + size;
    reader->body = position + coded;
    reader->used = mark;
}

/* Memory that the chunks ask for beside what is kept. */
static void count_chunks(metaq_reader *reader) {
    uint32_t i;
    reader->is_counting = 1;
    for (i = 0; i < reader->chunk_count && is_well(reader); i++) start_chunk(reader, i);
    reader->is_counting = 0;
    if (reader->status == METAQ_LEFT_OUT || reader->status == METAQ_TOO_LARGE) reader->status = METAQ_OK;
    reader->used = reader->kept;
    reader->decoder = NULL;
}

#ifdef METAQ_UPDATES

/* ---- Updates */

typedef struct sha256 {
    uint32_t state[8];
    uint64_t size;
    uint8_t block[64];
} sha256;

static uint32_t turned(uint32_t value, int bits) { return value >> bits | value << (32 - bits); }

static const uint32_t FIRST_STATE[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static void hash_block(sha256 *of) {
    static const uint32_t ROUNDS[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t words[64], s[8];
    int i, k;
    memcpy(s, of->state, sizeof s);
    for (i = 0; i < 64; i++) {
        uint32_t first, second;
        if (i < 16) {
            for (words[i] = 0, k = 0; k < 4; k++) words[i] = words[i] << 8 | of->block[4 * i + k];
        } else {
            first = turned(words[i - 15], 7) ^ turned(words[i - 15], 18) ^ words[i - 15] >> 3;
            second = turned(words[i - 2], 17) ^ turned(words[i - 2], 19) ^ words[i - 2] >> 10;
            words[i] = words[i - 16] + first + words[i - 7] + second;
        }
        first = s[7] + (turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                ROUNDS[i] + words[i];
        second =
            (turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += first;
        s[0] = first + second;
    }
    for (i = 0; i < 8; i++) of->state[i] += s[i];
}

static void hash(sha256 *of, const void *bytes, size_t size) {
    const uint8_t *next = bytes;
    for (; size > 0; size--) {
        of->block[of->size++ % 64] = *next++;
        if (of->size % 64 == 0) hash_block(of);
    }
}

static void hash_varint(sha256 *of, uint64_t value) {
    uint8_t byte;
    do {
        byte = (uint8_t)((value & 127) | (value > 127 ? 128 : 0));
        hash(of, &byte, 1);
        value >>= 7;
    } while (value);
}

/* The first eight bytes. */
static void end_hash(sha256 *of, uint8_t *found) {
    const uint64_t bits = 8 * of->size;
    uint8_t byte = 0x80;
    int k;
    do {
        hash(of, &byte, 1);
        byte = 0;
    } while (of->size % 64 != 56);
    for (k = 56; k >= 0; k -= 8) {
        byte = (uint8_t)(bits >> k);
        hash(of, &byte, 1);
    }
    for (k = 0; k < 8; k++) found[k] = (uint8_t)(of->state[k / 4] >> (24 - k % 4 * 8));
}

static void hash_tensor(metaq_reader *reader, sha256 *of, metaq_reader *holder, size_t number) {
    const metaq_tensor *tensor = &holder->tensors[number];
    const uint8_t kind[2] = {(uint8_t)tensor->type, (uint8_t)tensor->dimensions};
    const size_t size = tensor->element_size;
    uint8_t part[256];
    metaq_status status;
    metaq_span span;
    uint32_t k;
    hash_varint(of, tensor->name_size);
    hash(of, tensor->name, tensor->name_size);
    hash(of, kind, 2);
    for (k = 0; k < tensor->dimensions; k++) hash_varint(of, tensor->shape[k]);
    status = metaq_select(holder, number);
    if (status == METAQ_OK && holder->tensor->by_columns) {
        status = metaq_read_all(holder, METAQ_ELEMENTS, reader->whole);
        if (status == METAQ_OK) hash(of, reader->whole, tensor->elements * size);
    } else {
        while (status == METAQ_OK &&
               (status = metaq_read(holder, METAQ_ELEMENTS, part, sizeof part / size, &span)) == METAQ_OK)
            hash(of, part, span.count * size);
    }
    if (status != METAQ_OK && status != METAQ_END) refuse(reader, status);
}

/* Whether tensors may be files that travel with the model. */
static int has_files(const metaq_reader *reader) {
    metaq_metadatum found;
    cursor at;
    size_t i;
    memset(&at, 0, sizeof at);
    at.next = reader->metadata;
    at.end = reader->header_end;
    for (i = 0; i < reader->metadata_count && read_metadatum(&at, &found) == METAQ_OK; i++)
        if ((found.key_size == 4 && memcmp(found.key, "file", 4) == 0) ||
            (found.key_size == 6 && memcmp(found.key, "folder", 6) == 0))
            return 1;
    return 0;
}

static int is_file(const metaq_reader *reader, size_t number) {
    const metaq_tensor *tensor = &reader->tensors[number];
    return ((tensor->name_size >= 5 && memcmp(tensor->name, "file:", 5) == 0) ||
            (tensor->name_size >= 6 && memcmp(tensor->name, "frame:", 6) == 0)) &&
           has_files(reader);
}

/* The number of the tensor of a name, or `count`. */
static size_t number_of(const metaq_reader *reader, const char *name, size_t size) {
    size_t low = 0, high = reader->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const metaq_tensor *tensor = &reader->tensors[middle];
        if (is_before((const uint8_t *)tensor->name, tensor->name_size, (const uint8_t *)name, size)) low = middle + 1;
        else high = middle;
    }
    if (low < reader->count && reader->tensors[low].name_size == size &&
        memcmp(reader->tensors[low].name, name, size) == 0)
        return low;
    return reader->count;
}

/* Whether the update takes away a tensor of the base, `place` of those that are no files. */
static int is_removed(const metaq_reader *reader, size_t place) {
    size_t low = 0, high = reader->removed_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (reader->removed[middle] == place) return 1;
        if (reader->removed[middle] < place) low = middle + 1;
        else high = middle;
    }
    return 0;
}

/* Finds what tells the tensors of the update, and makes room for it. */
static void find_base(metaq_reader *reader) {
    metaq_reader *base = reader->base;
    size_t elements = 0, bytes = 0, whole = 0, i;
    for (i = 0; i < reader->count; i++) {
        metaq_tensor *tensor = &reader->tensors[i];
        const metaq_tensor *other;
        const size_t size = tensor->elements * tensor->element_size;
        size_t number;
        if (tensor->by_columns && size > whole) whole = size;
        if (tensor->relation == ALONE) continue;
        number = number_of(base, tensor->name, tensor->name_size);
        other = &base->tensors[number < base->count ? number : 0];
        if (number == base->count || is_file(base, number) || other->type != tensor->type ||
            other->dimensions != tensor->dimensions ||
            memcmp(other->shape, tensor->shape, tensor->dimensions * sizeof(size_t)) != 0) {
            refuse(reader, METAQ_OTHER_BASE);
            return;
        }
        tensor->in_base = (uint32_t)number;
        if (tensor->elements > elements) elements = tensor->elements;
        if (size > bytes) bytes = size;
    }
    for (i = 0; i < base->count; i++) {
        const metaq_tensor *tensor = &base->tensors[i];
        const size_t size = tensor->elements * tensor->element_size;
        if (tensor->by_columns && size > whole) whole = size;
    }
    reader->base_held = NOWHERE;
    reader->base_elements = room(reader, bytes, 1);
    reader->hints = room(reader, elements, 1);
    reader->whole = room(reader, whole, 1);
}

/* Compares what the update says of the base, and of the model that it gives. */
static void check_identities(metaq_reader *reader) {
    metaq_reader *base = reader->base;
    uint8_t said[12], of_base[8], of_result[8];
    sha256 first, second;
    size_t i = 0, own = 0, place = 0, most = 0;
    memset(&first, 0, sizeof first);
    memcpy(first.state, FIRST_STATE, sizeof first.state);
    second = first;
    fetch(reader, 5, said, sizeof said);
    for (i = 0; i < base->count && is_well(reader); i++)
        if (!is_file(base, i)) hash_tensor(reader, &first, base, i);
    end_hash(&first, of_base);
    if (is_well(reader) && memcmp(of_base, said, 8) != 0) refuse(reader, METAQ_OTHER_BASE);
    for (i = 0; (i < base->count || own < reader->count) && is_well(reader);) {
        const metaq_tensor *old = i < base->count ? &base->tensors[i] : NULL;
        const metaq_tensor *new = own < reader->count ? &reader->tensors[own] : NULL;
        const int is_new = !old || (new && !is_before((const uint8_t *)old->name, old->name_size,
                                                      (const uint8_t *)new->name, new->name_size));
        const int is_replaced =
            is_new && old &&
            !is_before((const uint8_t *)new->name, new->name_size, (const uint8_t *)old->name, old->name_size);
        if (new &&is_new && !is_file(reader, own)) hash_tensor(reader, &second, reader, own);
        if (old && (!is_new || is_replaced) && !is_file(base, i)) {
            const int is_kept = !is_removed(reader, place++) && !(is_replaced && !is_file(reader, own));
            if (is_kept) hash_tensor(reader, &second, base, i);
        }
        i += !is_new || is_replaced;
        own += (size_t)is_new;
    }
    for (i = 0; i < reader->removed_count; i++) most = reader->removed[i] + (size_t)1;
    end_hash(&second, of_result);
    if (is_well(reader) && (most > place || memcmp(of_result + 4, said + 8, 4) != 0)) refuse(reader, METAQ_DAMAGED);
}

metaq_reader *metaq_find(metaq_reader *reader, const char *name, size_t name_size, size_t *number) {
    metaq_reader *base = reader->base;
    size_t place = 0, i;
    *number = number_of(reader, name, name_size);
    if (*number < reader->count) return reader;
    if (!base) return NULL;
    *number = number_of(base, name, name_size);
    if (*number == base->count || is_file(base, *number)) return NULL;
    for (i = 0; i < *number; i++) place += !is_file(base, i);
    return is_removed(reader, place) ? NULL : base;
}

#endif

/* Reads the header of a model, or of an update if there is a base. */
static metaq_status open_with(metaq_reader *reader, metaq_source source, metaq_reader *base, void *block, size_t size) {
    memset(reader, 0, sizeof *reader);
    reader->source = source;
    reader->base = base;
    reader->block = block;
    reader->size = size;
    if ((uintptr_t)block % sizeof(uint64_t)) return refuse(reader, METAQ_MISUSED);
    reader->scratch = room(reader, SCRATCH, sizeof(int32_t));
    make_crc_table(reader);
    if (is_well(reader)) unpack_header(reader);
    if (is_well(reader)) read_header(reader);
#ifndef METAQ_NO_BASIS
    if (is_well(reader)) make_bases(reader);
#endif
#ifdef METAQ_UPDATES
    if (is_well(reader) && base) find_base(reader);
#endif
    reader->kept = reader->used;
    if (is_well(reader)) count_chunks(reader);
#ifdef METAQ_UPDATES
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION /* what is made up has no right identity, and may be large */
    if (is_well(reader) && base) check_identities(reader);
#endif
    reader->tensor = NULL;
#endif
    if (!is_well(reader)) reader->count = 0;
    return reader->status;
}

metaq_status metaq_open(metaq_reader *reader, metaq_source source, void *block, size_t size) {
    return open_with(reader, source, NULL, block, size);
}

#ifdef METAQ_UPDATES
metaq_status metaq_open_update(metaq_reader *reader, metaq_source source, metaq_reader *base, void *block,
                               size_t size) {
    metaq_status status = base->status;
    if (status == METAQ_OK && base->base) status = METAQ_MISUSED;
    if (status == METAQ_OK) return open_with(reader, source, base, block, size);
    memset(reader, 0, sizeof *reader);
    return reader->status = status;
}
#endif

const metaq_tensor *metaq_tensor_at(const metaq_reader *reader, size_t number) {
    return number < reader->count ? &reader->tensors[number] : NULL;
}

metaq_status metaq_metadata(const metaq_reader *reader, size_t number, metaq_metadatum *found) {
    cursor at;
    memset(&at, 0, sizeof at);
    at.next = reader->metadata;
    at.end = reader->header_end;
    if (number >= reader->metadata_count) return METAQ_END;
    do {
        metaq_status status = read_metadatum(&at, found);
        if (status != METAQ_OK) return status;
    } while (number-- > 0);
    return METAQ_OK;
}

metaq_status metaq_select(metaq_reader *reader, size_t number) {
    const metaq_tensor *tensor;
    if (!is_well(reader)) return reader->status;
    if (number >= reader->count) return METAQ_MISUSED;
    if (reader->tensors[number].storage == TIED) number = (size_t)reader->tensors[number].tied_to;
    tensor = &reader->tensors[number];
#ifdef METAQ_NO_BASIS
    if (reader->basis_count) return refuse(reader, METAQ_LEFT_OUT);
#else
    if (tensor->storage == QUANTISED && tensor->basis != NOWHERE && tensor->elements && !reader->has_bases) {
        uint32_t i;
        for (i = 0; i < reader->basis_count && is_well(reader); i++) load_basis(reader, i);
        reader->has_bases = 1;
    }
#endif
#ifdef METAQ_NO_TRELLIS
    if (tensor->trellis_bits) return refuse(reader, METAQ_LEFT_OUT);
#endif
    if (is_well(reader)) come_to(reader, (uint32_t)number);
    reader->tensor = tensor;
    reader->position = 0;
    reader->trellis_state = 0;
    return reader->status;
}

metaq_status metaq_next(metaq_reader *reader) {
    if (!is_well(reader)) return reader->status;
    /* First come tensors that are in no chunk. */
    while (reader->next_tensor < reader->count) {
        const metaq_tensor *tensor = &reader->tensors[reader->next_tensor++];
        if (tensor->storage != TIED && tensor->chunk == NOWHERE) return metaq_select(reader, reader->next_tensor - 1);
    }
    while (reader->next_chunk < reader->chunk_count) {
        const metaq_chunk *chunk = &reader->chunks[reader->next_chunk];
        uint32_t number = reader->next_stream;
        if (!reader->is_in_chunk) number = chunk->start ? NOWHERE : chunk->first;
        reader->is_in_chunk = number != NOWHERE;
        if (!reader->is_in_chunk) {
            reader->next_chunk++;
            continue;
        }
        reader->next_stream = stream_at(reader, number)->next;
        if (number < reader->count) return metaq_select(reader, number);
    }
    return METAQ_END;
}

metaq_status metaq_range(const metaq_reader *reader, size_t number, size_t *position, size_t *size) {
    const metaq_tensor *tensor = metaq_tensor_at(reader, number);
    uint32_t chunk;
    *position = *size = 0;
    if (!tensor) return METAQ_MISUSED;
    if (tensor->storage == TIED) tensor = &reader->tensors[tensor->tied_to];
    if (tensor->chunk == NOWHERE) return METAQ_OK;
    *position = reader->chunks[tensor->chunk].position;
    for (chunk = tensor->chunk; chunk < reader->chunk_count; chunk++) {
        if (chunk > tensor->chunk && reader->chunks[chunk].start == 0) break;
        *size += reader->chunks[chunk].size;
    }
    return METAQ_OK;
}

metaq_status metaq_read(metaq_reader *reader, metaq_format format, void *out, size_t most, metaq_span *span) {
    const metaq_tensor *tensor = reader->tensor;
    size_t line;
    if (!is_well(reader)) return reader->status;
    if (!tensor || most == 0 || (format == METAQ_FLOATS && !has_floats(tensor->type)) ||
        (format == METAQ_INTEGERS &&
         (tensor->storage != QUANTISED || tensor->basis != NOWHERE || relation_of(tensor) == ADDED)))
        return METAQ_MISUSED;
    if (reader->position == tensor->elements) return METAQ_END;
    line = line_of(tensor);
    span->count = least_size(most, line - reader->position % line);
    span->start = reader->position;
    span->stride = 1;
    if (tensor->by_columns) {
        span->stride = tensor->elements / line;
        span->start = reader->position % line * span->stride + reader->position / line;
    }
    if (tensor->storage != QUANTISED) read_exact_elements(reader, tensor, format, out, span->count);
#ifndef METAQ_NO_BASIS
    else if (tensor->basis != NOWHERE) read_combined(reader, tensor, format, out, span);
#endif
    else read_on_grid(reader, tensor, format, out, span);
    return reader->status;
}

metaq_status metaq_read_all(metaq_reader *reader, metaq_format format, void *out) {
    uint8_t part[256];
    size_t size;
    metaq_span span;
    metaq_status status = METAQ_OK;
    if (!reader->tensor) return METAQ_MISUSED;
    size = format == METAQ_ELEMENTS ? reader->tensor->element_size : 4;
    while (status == METAQ_OK) {
        size_t i;
        if (!reader->tensor->by_columns) {
            status = metaq_read(reader, format, (uint8_t *)out + reader->position * size, SIZE_MAX, &span);
            continue;
        }
        status = metaq_read(reader, format, part, sizeof part / size, &span);
        for (i = 0; status == METAQ_OK && i < span.count; i++)
            memcpy((uint8_t *)out + (span.start + i * span.stride) * size, part + i * size, size);
    }
    return status == METAQ_END ? METAQ_OK : status;
}

double metaq_factor(const metaq_tensor *tensor, size_t element) {
    size_t row_length, kernel;
    if (!tensor->scales) return 1;
    row_length = tensor->elements / tensor->shape[0];
    kernel = row_length / tensor->shape[1];
    return factor_of(tensor->scales[element / row_length]) *
           factor_of(tensor->scales[tensor->shape[0] + element % row_length / kernel]);
}

const char *metaq_sentence(metaq_status status) {
    static const char SENTENCES[] = "All is well.\0"
                                    "Nothing is left.\0"
                                    "This is not a .metaq file.\0"
                                    "The file needs a newer reader; update this one.\0"
                                    "The file is damaged; get it again.\0"
                                    "The tensors are too large for this machine.\0"
                                    "The block of memory is too small; give a larger one.\0"
                                    "The file cannot be read; is all of it there?\0"
                                    "The file is an update; apply it with metaq apply first.\0"
                                    "A tensor needs Zstandard; give a function that decodes it.\0"
                                    "This build leaves out what the file has; build all parts.\0"
#ifdef METAQ_UPDATES
                                    "The file is a model, no update; open it without a base.\0"
                                    "The update is of another model; give the one that it was made of.\0"
#else
                                    "\0\0"
#endif
                                    "The call is not one that metaq.h allows.";
    const char *found = SENTENCES;
    int i;
    for (i = 0; i < (int)status && i < METAQ_MISUSED; i++) found += strlen(found) + 1;
    return found;
}
