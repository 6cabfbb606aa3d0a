/**
 * The networks that are part of this page, and their accuracy in percent on MNIST's test images.
 * Written by embed_models.js from the folder models and from MODELS.md.
 */
export const MODELS = [
  {
    name: "lenet5-mnist",
    accuracy: 99.14,
    base64: `
      j01UUQErlgHe3z8MflXtakQOj5iHcUE5eokFaM3u7pwKqZc7z2I1TEX8xbYOZxc55jCwAk80lLlmz/AO+YVhGEY9i23L5nxCF+kzmcElj5TNTw/j
      V8j7F6RDMKrRDTRagJgslx2tAms7pEaxWge/HQpS1RKoVaA1aBDfsPy0ufohwPCAIIClc/aq2RIxA8UJGXnVGUukIwrbVYUjw+y62rsmtN7Ce17I
      sDABJY+0ntG96Lo3wc3m+V44lktxfzvdMaS7ilZt7QqwMJZvOKywpIWLbkmB19d2KYUSd5W+2eDo8QmzIRKwIpSqMRQMIeTh/z23y9+Nk0kWWbCi
      DttFu7Sh/jyjhc0PAl0kfnBab0MbY1pbc9NcuIG5+HxBcTNKR7B3vxMCslqOFxgCbV2f4EJI5EyVmdJnhHj1toR8xv3VROyUU5JuOj7kL8MDQVCB
      ah54Byx9hfHkzDJn0vd+k93DBFykWoOkmTl3AEM0IPdwisJDqts7yHce3lzaeJC+o76gmLwdmm8QtUJW8OBNtciEX2nQqqx/aefuRhgbBxsCm61a
      dmlyu+RkBoAOSHUfLVfq6nt9XaWPAa1KSdMnrre36g+HsBHxauMq1ZmZXrCzne/npJ44C30qDh0mMhwyJ9Bjb8eZR0VsHRCbdQDz9wKnP1++KsmA
      SKlubuWeaKgvKh1NDEIzV0wRukbH1HNoGeJOzymqIEdwpV2zIXWw8LRMjkftLajU8F0Opoe1kvW9w4/7XKrddNaFeTxMPn5p3C5tv/at/0jXygcH
      MgcS2KJczDM8D4zcmg2ZJY7YRgc7BSMsjjc2rP3G4vixbb3dpoVIwHMCk9X1vlflUbKnd8L2+UqxLP6nAZW5e4H/kleKBAiZPhdcgl5HQZabcLky
      92WTcWSmFDSirP0KjRyZtPJH+xItLbJfVJ/2VLOxLegkXgGwELtmWgLnJ9LzIdj1//////////////////2oC3DazbcefmUPADxCvd+dNgEC5UXh
      H89KcE5Qe4LKNPb1leUAANxviTAymdNumXGkR4efVWJFRMEOWuLyl2ZUH/8TO2LxANIkFGBJWI19EqNlbcjN+o0HsOZZlhTSxEH0OC6IWY5Kl2AJ
      ///7Nppgkv4m4Fzzl/iEI0IywnF77rkSP85gUFwNF9b3cjqvGeK4k8s6Ch/Xd0eT7GTWcstdc7aGwoZ5BHtwogQm7rQzRW+01xHAMYVXP37cGTHW
      0VivmBP1TjGBVIUXiEsSn0IDDkgM+0QfouKVe5iPncW90xqbxbMFL3KZUWxCMoHeB7w=
    `,
  },
  {
    name: "lenet5-caffe-mnist",
    accuracy: 99.19,
    base64: `
      j01UUQFGiQHk+fi/eJOCa390gDhlXyY8Po4C52/8e6LBNkeJJp5KOvgPB3VSXxs27sge9qJl1w4SOcOwpdh7gEloNu0KZhr534/kV0K9enzTbBL3
      rVLFX24RjUGxt0+oHvM+KBUJzu/7Xh6u0P9modlb/GAER9Rlhk/R8H2ANDYXhZXH4xVM/DwN4AMVz75ukXmyad4WAKjvI7YVdLUq3hvbIx9RDBMP
      hYPOiZwRt9IgMGuyavB72SvIx11v5SZ4PwdDZPGFkBPvKZXbJ1mTh4xX9xiYUvj41cLi3mTVgT+SHmY5cIaPpJILbw8jczuX3w6640iRCsY+n8YU
      rVNlH5Jerw3kPAVX3LKwOn33rhjDJZ/mX7RVhF+BBvrt8TQ0q4lrusU/RsZM8YifaDq/gxdHi3l56cNhWZ45jr35WDU+G3O0cIOSbI/OXMuS1xF3
      ijuEOtdzN8xRdASMvAvHQapNxuLEabAKX5LHBX/KZzzPNvFmwX9Td6+GeGTwcE53uMVj8vpHs7QYC1zGMmBhleARdIbHBpa90+dw0WaYF2Kg+t89
      rS8ukESbxXEvQqbQqdOd+H4ORCilwwWPTVZLs79CMczs+gorR+vBEAmzPi5JyjVZCTE9dfRo8yXakUO/yBh/k3xuE00ICPsWyhvqzXeXg/zh4iwy
      iHTA7pVNwCOpii6nok8DQu9h0ccRF1YUd8rlJjgGl72rsS/fBXYFi5h1aRKBfJ48an+/tJBM+BFfqxhN+oDLCv/////ny9rJcpwlk2dbILx5ijiv
      DgvmzrfvDF6G9WXX/nj+pveKyCdEFqDcC/D4NZkKpu4rzH7gCw6PNhfw9r4G863nsn3KU+jm2mQO1sxFB5zvjMT/U4IeqqSnu8toiSyrR4Ldo/ir
      wTuqLLImc3J7AGkZCKA/N6P4yIWDtbg3bImCFROROsaXunML3u7Ue2ieq027ZTfmct1uM6CgkLWj9Ijg0FotE+2yA8o00p8fnuHKpnAl3NZe7wOp
      4YVXMBnrybPlbEgFtfmBHS+fqfoMa6KhutIvOJylM5RrqWOmKp4+wIOt+ErH4VLNkWrcsfp5WDKYd7XqTNblcIA+vzSxToUr4qEKeio+L0huHfp7
      kEBBNPDzLVBtmta4wq9JNl0ab3JxPC5JtE5EgsVN7Pkw495X9WXKU35lwUq27LS+Rq7iQcXwxXkP1HHropeYesjMcyk1gksM2hquRYQsfEx1CdcS
      DPELFppBKcgjsJxP2kE6Wqby002DQbfRH2bJfC3LM84s6pCyH3CfCtww9TbR0uOV9Lkqc5r8EKuMvKXWP5Xkg9zkfdxdNzEhhTEdj41JwLdmpeMk
      cvU6giK+of2kqWxxn+hwwLnTd8wEfxONRCJS96mtpnAultEer9GreW7QZvWMZ0PeY8jzgDCIIzPbe2foSO0Hlm/rrMUo4EdYdU3ZiV0Uvr+uxC9t
      EcXH0zkyjkp7iY1cq1e0tOUVM0iBsqkhY+njyBgIVX3svJH+Xi8gnDxJVpuddMtWxxOi74HXlhbfG8JH3EwvLu9dYF9j1uP6yvvBq/ABwAgphEbO
      EE/IyXDXlCVScibd0jvxkX5qMdmB00n0tXbefdUl///////////////////////////////////////////////77C/ORUUAB2LU1Mk5zcIxOO6N
      eMcoFGnY9fPu2L/yqNskgM9cyn0bmm9PuIbXxrot/phsuOOKny7YZZCcE2lNJiczFGh+QKPDw8rtJ+7YfjVIU1lkA6EazqSVz9a/8peCYio+Cv2l
      C8MLL7zsio6BdSGrsUHx5q2EVKIRONiVpnByX8d+wXlGPQzcUKHaB+IX6ZxZJBLHuEB3sXw2dDnN7vH4997LfLHKNVC35g3BOB00nqAsWhHGnulY
      Tkibrj9x210CZiK2gXIjsevMAArFtjhUAWHvJStA49Q1oK4W4l6Vy6rvOJjx
    `,
  },
  {
    name: "lenet300-mnist",
    accuracy: 98.42,
    base64: `
      j01UUQE4Z+nkHg1YzjX3/lPIHXgKiKoZekCqwtMR5QLmTkE0NVKQ2827OjFyXzrEro5Upe4TxBvRwjSWDUpAGF0Jg2ZPrnD0asHa7KJbQUkiHAMz
      AEhsnb1klpq5D6u9vP34WzR0aUvr4rwC/4P62AHp4P/11mxn1aKOdxFJdIIH7dpSZTNv5ouD22pYTN4ywt+COxjGyqft/1ofbso2kRj3xEP/0Jlb
      DAqHOxFNYkI4nlnQpMmCgiy81cKmf38dhen10BMGWnCx7k/whHNNKzYhMudBQnUPmwFuuNAOqUeoNanj8EyM4+kAKXVTrnUfXqQUcag/sIONSbPE
      2OmkDkkWSDjQEe/a7yVyL49K/asCZzzELuNfu/pYuSXBSx1003Y/woVNH0pyvL+M/OIsj/0R8Aw2RBuuPEI+3VyCzcuVP3bUvoj1KAKI+95vy5k1
      cWp2Sfp1mmwfy8n1iH1yGEinzAT6K7o88oS93ykTCl+RYq8iFuPL4C2xbnd644ATZnunm1URIBLORo7tA6smFHk6EzII+Cvuu+USDcL9fE1hV4FX
      hhJdnm+omax39lLxw7doeGI8y9YePcpHufIh3bnAH5FZaCGWTEj+Ze3P2zGiq984rli+jH4Sa2Cg4MTMGGm4NajzcVKtKk91PBvG7M1BmE15hFk/
      tCTq4MMoqdeZCBFiC8MMS0TZVSw2eLpgzPH+VVDhZYy5SQfieeGDDq/xiuGd5yZvLlzrZP1Bhidjte2Hi8Ee7favOvfs19hLsaG79nC2FZhOB1UA
      1icpoS/oET1Ve8T8XRt+0glnrqvkwNuevlwKF2zFvWRcP3YtrW+8gPgokKQ1ulMSqcxm+mUQyWj1R4WjwU/J0EpryiOdiWW4EziomIoomA7xZGIf
      i/aPL9VFogkVYpyquP3Kb5HUzENgJJa9KdLNnPQUIxkZxN5PruYoa05PxJ/L9dvcd3dLjzCuCiWWjAl/qCeA8eT4agNKEUt73DoDMNlc+kZvw4zp
      82mBebdPNaj92gkb2PZ6KaOQkaCLx/YcqEpdHOK3lpuMYEJDfs8u8FP3AFEYKPDRGsDjHFnS0SC2pRLePGmqiImbrzZr3JVp6fHpuYYjIEGaMQTN
      va3dRkMHdAio/ILt1r7TPJBSo5ODs4ZLcbE8yAIda8cvaUF/6BmDTPnfOFJMZmH+s+eQ3ly62w/Xug+Zn1VjYVhJgFJRlwSeq47JRZQIMli/ThOF
      YCTA6pybh6PNzU8kBJ5wiqm7j08WLOteEl82+wInTjRB75RjAVn6lfd1mlChZfF6htgTc7PQ39fVbktqySBU8VT1QxxcjSOUU1sd9cFnaIE0xuQz
      2u1Ck3APFaMpXztZmvC5TQH8zQYL9Rb1crJMZsvd+odP2Ssi/as0UGoulA+U3/oR8OUGJTUymhSJt5zkakCR2drNPVDlRvQJ5hZ8hE5Glr4/bkf8
      SxX92TOY6IbFJE9/vYCYWrFP8bf8YZc+adyPLR3R847IoHVKi53k71ynTlsPVpwod9JhL6hoiO6tVwqLuNjVNZqVrLBU9O0UZb/tLY9fQzCVAsVB
      cfTzCsJXv0aEsjSNDtkbpC4Qms7j85I2TNyZITwAC7vuG55SdlSCAdWbYEWjusQABWgiL2Y0wnC3KImzyy5BcW9/k47QJa5ng8bIYyXqW8TA/xzd
      g8tB1pJYC6vnBKjeWw8nvOrwPoPSHxUgN7DjaiH0EhLpmo4Dyfv1hgDPa4QzydX9iqJNwcKP29pslGT9IhXW4AEIi7VxauoCCOMbzFOl6Er6qrwA
      B2G7CoZSirfdJ23keImu/OP6jAQm5xskjbam10m0EMLZ7Y+AtY0iGhwTceR20qxwt64RduXBSYi7Yoi2qzhnYCw42XDNSiaLkAAkkwVPZNv/////
      //////////////////////////8sRpxlAIIKnfK1YeJEhIzsPXXjx+6LuSK9dH0/ug60TiDrs05Ot+UQ/G9aY6axhFJJRJ3Ll1xO+BvduhvRp3Rc
      U7+Q1304l4SVAIVrufO0YUn9heLctzqPyhKg9m6EWOMtXPzjoM7wepqohB5Km51cfySFtFpxvNHwvgaKFQ5v6Ac9BbCa/Oq0/zeiU8Yeovrg/p0w
      N50ojCPeyOWjML1F4EUx1vcZuhmwwdOtYAhQ8oLgV9nFv75tSrYFIT3ndpGY6RWvWj4rJAjao3srdhXhc9vkg2cnsSR6KNOkOcsY+KFx36M1o+g6
      IGZhrJwImiTNSGj1vrs4N3/R63khimo1YB1XuC7R0nNayv3tj147Kt0XG7/bl1U7lkltPpVwlEcKe6wEqaDba1pQEnkOGcmS0QEYGsG4wDoh2NGM
      Y3GTq4vabiUBO60X0y2f6QhuJVA2AY6b4uFmanvJbr8nkQmYo9iaWnkCI4xtLv0+zMX/99RFoYejSLKZvKXAWX1WtWm+ffpDUK78uIPnrq8w2IDr
      GpSTe+0W+yEnrxhyqPO8uQYTVCAxzqFrBBpZauLV403Ru5s7Slp05r0gPDxIfQQ19P/6U6h6IbkYoahG2hGtDY+tF31WPSrjneiM58qY34yHcPEB
      7MDJ3DqA80mCSwmgiEzgRTptMUJScEp446B0N0o0z718+5NOP57pJybftmrsZsLPu61C4g4jojCM7pl/pe5DRmEjf73LqDbq71LIpM+28CyubYNM
      0/j2jfgvf93Isygr4MSYUpadtgL98lok6Wc6OtidHPXRK9RZCYELlV1zYzcE4nWWk/WqFTPyYCr2synIGwhSNNKA399dr6p262EPPs3JNi7zLKA6
      j0lFaIi9nuQ9oQK1wREB04UTIj+NuIxwpz+Ot5s3KNR5gzyAb9giekfBcrbjZrMxwl235POI7HCcbUH6b4KJx5Drr1KOP16WWZlG99qR0X+w22AU
      UhX/LIcwFiC/pk/Muiev+IzgJDhRLDEFEjZSiyCc/pmN0h1neCntk9phi9XLAGL3m1byx8YM9gls4bLKEWoNk8SvaSk9UxMKEMqAnf9SuwbQBUq6
      1d7p8LTjRqwlEupqPpP6paYAh47GET80lmBRT8Q3dy/ZlIptiZPWUbRZKdB/iJolYbCGnITK3rt9
    `,
  },
];
