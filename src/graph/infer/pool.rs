//! Pooling.

use super::Concrete;
use super::call::{Call, Facts, like};
use super::conv::{Windows, planes};
use crate::tensor::DType;

/// `MaxPool` (values and indices), `AveragePool`, `LpPool`.
pub(super) fn pool(call: &Call) -> Facts {
    let x = call.input(0)?;
    let (channels, spatial) = planes(call, x)?;
    let windows = Windows::read(call, spatial.len(), None)?;
    let mut shape = vec![x.shape[0], channels];
    for (d, &n) in spatial.iter().enumerate() {
        shape.push(windows.output(call, d, n)?);
    }
    let mut outputs = vec![like(x, shape.clone())];
    if call.node.op == "MaxPool" {
        outputs.push(Concrete::unknown(DType::I64, shape));
    }
    Ok(outputs)
}

/// `GlobalAveragePool`, `GlobalMaxPool`, `GlobalLpPool`.
pub(super) fn global(call: &Call) -> Facts {
    let x = call.input(0)?;
    planes(call, x)?;
    let mut shape = x.shape.clone();
    shape[2..].fill(1);
    Ok(vec![like(x, shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn windows_may_round_up() {
        let x = unknown(&[1, 3, 6, 6]);
        let pool = attrs().with("kernel_shape", &[3, 3][..]).with("strides", &[2, 2][..]);
        let y = run_n("MaxPool", pool.clone(), std::slice::from_ref(&x), 2).unwrap();
        assert_eq!((&y[0].shape[..], y[1].dtype), (&[1, 3, 2, 2][..], DType::I64));
        let ceil = pool.clone().with("ceil_mode", 1);
        assert_eq!(shape("AveragePool", ceil, std::slice::from_ref(&x)), [1, 3, 3, 3]);
        // The window that would start in the padding after the input is left out.
        let one = attrs().with("kernel_shape", &[1][..]).with("strides", &[2][..]);
        let padded = one.with("pads", &[0, 1][..]).with("ceil_mode", 1);
        assert_eq!(shape("MaxPool", padded, &[unknown(&[1, 1, 4])]), [1, 1, 2]);
        assert!(run_n("AveragePool", pool, std::slice::from_ref(&x), 2).is_err());
        assert!(refused("MaxPool", attrs(), std::slice::from_ref(&x)));
        assert!(refused(
            "MaxPool",
            attrs().with("kernel_shape", &[9, 9][..]),
            std::slice::from_ref(&x)
        ));
        assert!(refused("MaxPool", attrs().with("kernel_shape", &[0, 1][..]), &[x]));
    }

    #[test]
    fn global_pools_leave_ones() {
        assert_eq!(shape("GlobalAveragePool", attrs(), &[unknown(&[2, 3, 7, 9])]), [2, 3, 1, 1]);
        assert_eq!(shape("GlobalMaxPool", attrs(), &[unknown(&[2, 3, 7])]), [2, 3, 1]);
        assert!(refused("GlobalMaxPool", attrs(), &[unknown(&[2, 3])]));
    }
}
