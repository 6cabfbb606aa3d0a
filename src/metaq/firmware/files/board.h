/* Standard input and output of a Cortex-M without a system, by semihosting: of a debugger, or of QEMU. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

/* How many bytes came; fewer than asked for at the end. */
size_t board_read(uint8_t *out, size_t size);
void board_write(const char *text, size_t size);

#endif
