#include "test_forms.h"

#include "test_amx.h"

extern "C" {
uint64_t octavo_test_in[16];
uint64_t octavo_test_out[16];
const uint8_t* octavo_test_code;
__attribute__((visibility("hidden"))) uint64_t octavo_test_saved_rsp;
}

static_assert(sizeof(octavo::amx_test::MemoryForm) == 24);
static_assert(sizeof(octavo::amx_test::DotProductForm) == 16);

// Register numbers as assembler symbols, and the tables.
__asm__(R"(
  .set octavo_number_none, -1
  .set octavo_number_rax, 0
  .set octavo_number_rcx, 1
  .set octavo_number_rdx, 2
  .set octavo_number_rbx, 3
  .set octavo_number_rsp, 4
  .set octavo_number_rbp, 5
  .set octavo_number_rsi, 6
  .set octavo_number_rdi, 7
  .set octavo_number_r8, 8
  .set octavo_number_r9, 9
  .set octavo_number_r10, 10
  .set octavo_number_r11, 11
  .set octavo_number_r12, 12
  .set octavo_number_r13, 13
  .set octavo_number_r14, 14
  .set octavo_number_r15, 15
  .set octavo_kind_ldtilecfg, 0
  .set octavo_kind_sttilecfg, 1
  .set octavo_kind_tileloadd, 2
  .set octavo_kind_tileloaddt1, 3
  .set octavo_kind_tilestored, 4

  # The row of the table for the instruction between labels 701 and 702, which come right before.
  .macro octavo_memory_row kind, base, index, scale, tile, displacement
    jmp octavo_test_form_return
    .pushsection .data.rel.ro.octavo_memory_forms, "aw"
    .quad 701b
    .byte octavo_kind_\kind, octavo_number_\base, octavo_number_\index, \scale, 702b - 701b, \tile
    .short 0
    .long \displacement, 0
    .popsection
  .endm

  .macro octavo_tile_load kind, base, index, scale, tile, displacement
    701: \kind \displacement(%\base, %\index, \scale), %tmm\tile
    702: octavo_memory_row \kind, \base, \index, \scale, \tile, \displacement
  .endm

  .macro octavo_tile_load_unindexed kind, base, tile, displacement
    701: \kind \displacement(%\base), %tmm\tile
    702: octavo_memory_row \kind, \base, none, 1, \tile, \displacement
  .endm

  .macro octavo_tile_load_absolute kind, tile, displacement
    701: \kind \displacement, %tmm\tile
    702: octavo_memory_row \kind, none, none, 1, \tile, \displacement
  .endm

  .macro octavo_tile_load_baseless kind, index, scale, tile, displacement
    701: \kind \displacement(, %\index, \scale), %tmm\tile
    702: octavo_memory_row \kind, none, \index, \scale, \tile, \displacement
  .endm

  .macro octavo_tile_store base, index, scale, tile, displacement
    701: tilestored %tmm\tile, \displacement(%\base, %\index, \scale)
    702: octavo_memory_row tilestored, \base, \index, \scale, \tile, \displacement
  .endm

  .macro octavo_config_indexed kind, base, index, scale, displacement
    701: \kind \displacement(%\base, %\index, \scale)
    702: octavo_memory_row \kind, \base, \index, \scale, 0, \displacement
  .endm

  .macro octavo_config kind, base, displacement
    701: \kind \displacement(%\base)
    702: octavo_memory_row \kind, \base, none, 1, 0, \displacement
  .endm

  .pushsection .data.rel.ro.octavo_memory_forms, "aw"
  .balign 8
  .globl octavo_test_memory_forms
  .hidden octavo_test_memory_forms
  octavo_test_memory_forms:
  .popsection
  .text

  .irp index, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    .irp base, rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
      .irp scale, 1, 2, 4, 8
        octavo_tile_load tileloadd, \base, \index, \scale, 3, 0
        octavo_tile_load tileloaddt1, \base, \index, \scale, 6, -64
        octavo_tile_load tileloadd, \base, \index, \scale, 0, 0x1240
        octavo_tile_store \base, \index, \scale, 5, -64
        octavo_config_indexed ldtilecfg, \base, \index, \scale, 0x40
        octavo_config_indexed sttilecfg, \base, \index, \scale, -0x1000
      .endr
    .endr
    .irp scale, 1, 2, 4, 8
      octavo_tile_load_baseless tileloadd, \index, \scale, 2, 0x20000040
    .endr
  .endr
  .irp base, rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    .irp displacement, 0, 127, -128, 128, -129
      octavo_config ldtilecfg, \base, \displacement
      octavo_config sttilecfg, \base, \displacement
      octavo_tile_load_unindexed tileloadd, \base, 4, \displacement
    .endr
  .endr
  octavo_tile_load_absolute tileloaddt1, 7, 0x20000040
  .irp tile, 0, 1, 2, 3, 4, 5, 6, 7
    octavo_tile_load tileloadd, r9, rax, 1, \tile, 0
    octavo_tile_load tileloaddt1, rbx, r14, 2, \tile, 0
    octavo_tile_store rdi, r8, 1, \tile, 0
  .endr

  .pushsection .data.rel.ro.octavo_memory_forms, "aw"
  .globl octavo_test_memory_forms_end
  .hidden octavo_test_memory_forms_end
  octavo_test_memory_forms_end:
  .popsection
)");

__asm__(R"(
  .macro octavo_dot name, signed1, signed2, dst, src1, src2
    703: \name %tmm\src2, %tmm\src1, %tmm\dst
    ret
    .pushsection .data.rel.ro.octavo_dot_forms, "aw"
    .quad 703b
    .byte \signed1, \signed2, \dst, \src1, \src2, 0, 0, 0
    .popsection
  .endm

  .pushsection .data.rel.ro.octavo_dot_forms, "aw"
  .balign 8
  .globl octavo_test_dot_forms
  .hidden octavo_test_dot_forms
  octavo_test_dot_forms:
  .popsection
  .text

  .irp dst, 0, 1, 2, 3, 4, 5, 6, 7
    .irp src1, 0, 1, 2, 3, 4, 5, 6, 7
      .irp src2, 0, 1, 2, 3, 4, 5, 6, 7
        .if (\dst - \src1) * (\dst - \src2) * (\src1 - \src2)
          octavo_dot tdpbssd, 1, 1, \dst, \src1, \src2
          octavo_dot tdpbsud, 1, 0, \dst, \src1, \src2
          octavo_dot tdpbusd, 0, 1, \dst, \src1, \src2
          octavo_dot tdpbuud, 0, 0, \dst, \src1, \src2
        .endif
      .endr
    .endr
  .endr

  .pushsection .data.rel.ro.octavo_dot_forms, "aw"
  .globl octavo_test_dot_forms_end
  .hidden octavo_test_dot_forms_end
  octavo_test_dot_forms_end:
  .popsection
)");

__asm__(R"(
  .text
  .globl octavo_test_run_form
  .hidden octavo_test_run_form
  .type octavo_test_run_form, @function
  octavo_test_run_form:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, octavo_test_saved_rsp(%rip)
    .irp register, rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
      mov octavo_test_in + 8 * octavo_number_\register(%rip), %\register
    .endr
    jmp *octavo_test_code(%rip)
  octavo_test_form_return:
    .irp register, rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
      mov %\register, octavo_test_out + 8 * octavo_number_\register(%rip)
    .endr
    mov octavo_test_saved_rsp(%rip), %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
  .size octavo_test_run_form, . - octavo_test_run_form
)");

namespace octavo::amx_test {

void LoadTile(int tile, const void* rows, ptrdiff_t stride) {
  constexpr void (*kLoads[])(const void*, ptrdiff_t) = {Load<0>, Load<1>, Load<2>, Load<3>,
                                                        Load<4>, Load<5>, Load<6>, Load<7>};
  kLoads[tile](rows, stride);
}

void StoreTile(int tile, void* rows, ptrdiff_t stride) {
  constexpr void (*kStores[])(void*, ptrdiff_t) = {Store<0>, Store<1>, Store<2>, Store<3>,
                                                   Store<4>, Store<5>, Store<6>, Store<7>};
  kStores[tile](rows, stride);
}

void ZeroTile(int tile) {
  constexpr void (*kZeros[])() = {Zero<0>, Zero<1>, Zero<2>, Zero<3>,
                                  Zero<4>, Zero<5>, Zero<6>, Zero<7>};
  kZeros[tile]();
}

}  // namespace octavo::amx_test
