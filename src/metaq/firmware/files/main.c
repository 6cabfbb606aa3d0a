/* Reads inputs from standard input, one after the other to its end, and prints for each its class and the scores. An
   input is NETWORK_INPUTS numbers of one byte where NETWORK_TAKES_BYTES is 1, such as the pixels of a picture, row by
   row; else of four: float, little-endian. */
#include <string.h>

#include "network.h"

#ifdef BOARD
#include "board.h"
#else
#include <stdio.h>
static size_t board_read(uint8_t *out, size_t size) { return fread(out, 1, size, stdin); }
static void board_write(const char *text, size_t size) { fwrite(text, 1, size, stdout); }
#endif

#define WIDTH (NETWORK_TAKES_BYTES ? 1 : 4)
#define LARGEST 1000000.0f

static float input[NETWORK_INPUTS], output[NETWORK_OUTPUTS];

static void print(const char *text) { board_write(text, strlen(text)); }

/* At least `digits` digits. */
static void print_whole(uint32_t value, int digits) {
    char text[11];
    int at = 10;
    text[at] = 0;
    while (value || digits > 0) {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
        digits--;
    }
    print(text + at);
}

/* Six digits after the point; large numbers with an exponent. */
static void print_number(float value) {
    uint32_t exponent = 0, whole;
    if (value != value) {
        print("nan");
        return;
    }
    if (value < 0) {
        print("-");
        value = -value;
    }
    for (; value >= LARGEST && exponent < 40; exponent++) value /= 10;
    if (exponent == 40) {
        print("inf");
        return;
    }
    whole = (uint32_t)value;
    value = (value - (float)whole) * 1000000.0f + 0.5f;
    if (value >= 1000000.0f) {
        whole++;
        value = 0;
    }
    print_whole(whole, 1);
    print(".");
    print_whole((uint32_t)value, 6);
    if (exponent) {
        print("e");
        print_whole(exponent, 1);
    }
}

/* Whether there is another input. */
static int read_input(void) {
    uint8_t bytes[4];
    int i;
    for (i = 0; i < NETWORK_INPUTS; i++) {
        if (board_read(bytes, WIDTH) != WIDTH) {
            if (i) print("The last input is cut short.\n");
            return 0;
        }
#if NETWORK_TAKES_BYTES
        input[i] = (float)bytes[0] / 255;
#else
        {
            const uint32_t bits =
                bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
            memcpy(&input[i], &bits, sizeof input[i]);
        }
#endif
    }
    return 1;
}

int main(void) {
    while (read_input()) {
        const metaq_status status = network_run(input, output);
        int best = 0, i;
        if (status != METAQ_OK) {
            print(metaq_sentence(status));
            print("\n");
            return 1;
        }
        for (i = 1; i < NETWORK_OUTPUTS; i++) {
            if (output[i] > output[best]) best = i;
        }
        print_whole((uint32_t)best, 1);
        for (i = 0; i < NETWORK_OUTPUTS; i++) {
            print(" ");
            print_number(output[i]);
        }
        print("\n");
    }
    return 0;
}
