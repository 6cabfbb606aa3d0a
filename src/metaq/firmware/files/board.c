/* The start of a Cortex-M4 after a reset, and its input and output: see board.h. */
#include "board.h"

#include <string.h>

/* Of board.ld. */
extern uint32_t board_data[], board_data_end[], board_data_kept[], board_zero[], board_zero_end[], board_stack[];

int main(void);
void board_reset(void);

enum { OPEN = 1, WRITE = 5, READ = 6, LEAVE = 0x18, AS_BYTES = 1, TO_WRITE = 4, LEFT = 0x20026, FAILED = 0x20023 };

static uint32_t call(uint32_t what, const void *with) {
    register uint32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t open_console(uint32_t mode) {
    static const char NAME[] = ":tt";
    const uint32_t with[3] = {(uint32_t)(uintptr_t)NAME, mode, sizeof NAME - 1};
    return call(OPEN, with);
}

size_t board_read(uint8_t *out, size_t size) {
    static uint8_t waiting[256];
    static size_t next, end;
    static uint32_t file;
    size_t done = 0;
    if (!file) file = open_console(AS_BYTES) + 1;
    while (done < size) {
        size_t count = size - done;
        if (next == end) {
            const uint32_t with[3] = {file - 1, (uint32_t)(uintptr_t)waiting, sizeof waiting};
            const uint32_t missing = call(READ, with);
            if (missing >= sizeof waiting) break;
            next = 0;
            end = sizeof waiting - missing;
        }
        if (count > end - next) count = end - next;
        memcpy(out + done, waiting + next, count);
        next += count;
        done += count;
    }
    return done;
}

void board_write(const char *text, size_t size) {
    static uint32_t file;
    uint32_t with[3];
    if (!file) file = open_console(TO_WRITE) + 1;
    with[0] = file - 1;
    with[1] = (uint32_t)(uintptr_t)text;
    with[2] = (uint32_t)size;
    call(WRITE, with);
}

static void stop(void) {
    call(LEAVE, (const void *)(uintptr_t)FAILED);
    for (;;) continue;
}

void board_reset(void) {
    volatile uint32_t *const coprocessors = (volatile uint32_t *)(uintptr_t)0xe000ed88u;
    /* The unit for floating-point numbers has to be switched on. */
    *coprocessors |= 0xf00000u;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    memcpy(board_data, board_data_kept, (size_t)((uint8_t *)board_data_end - (uint8_t *)board_data));
    memset(board_zero, 0, (size_t)((uint8_t *)board_zero_end - (uint8_t *)board_zero));
    call(LEAVE, (const void *)(uintptr_t)(main() ? FAILED : LEFT));
    for (;;) continue;
}

/* What the processor starts with: its stack, its first instruction, and what it does about faults. */
__attribute__((section(".vectors"), used)) static const void *const VECTORS[16] = {
    board_stack,        (const void *)board_reset, (const void *)stop, (const void *)stop,
    (const void *)stop, (const void *)stop,        (const void *)stop,
};
