use std::path::Path;

use edge_tune::data::{ArraySpec, DataError, read_npy};
use edge_tune::tensor::{DType, Tensor};

fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = b"\x93NUMPY".to_vec();
    out.extend([version, 0]);
    match version {
        1 => out.extend((header.len() as u16).to_le_bytes()),
        _ => out.extend((header.len() as u32).to_le_bytes()),
    }
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

fn read(bytes: &[u8]) -> Result<Tensor, DataError> {
    read_npy(bytes, Path::new("set/a.npy"))
}

#[test]
fn arrays_of_numpy_are_read() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }      \n";
    let data: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for version in [1, 2, 3] {
        let array = read(&npy(version, header, &data)).unwrap();
        assert_eq!((array.dtype(), array.shape()), (DType::F32, [2, 1].as_slice()));
        assert_eq!(array.as_slice::<f32>().unwrap(), [1.5, -2.0]);
    }
    let spec = ArraySpec { shape: vec![3] };
    for (descr, data) in [
        ("<f2", vec![0, 0x3c, 0, 0x40, 0, 0x42]),
        ("|u1", vec![1, 2, 3]),
        ("<i4", vec![1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]),
    ] {
        let header = format!("{{'shape': (3,), 'fortran_order': False, 'descr': '{descr}'}}");
        let array = read(&npy(1, &header, &data)).unwrap();
        let tensor = spec.tensor(&array, Path::new("a.npy")).unwrap();
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    }
    let one = read(&npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': ()}", &[7]));
    assert_eq!(one.unwrap().shape(), [0usize; 0]);
}

#[test]
fn other_arrays_are_refused() {
    let with = |descr: &str, fortran: &str, shape: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}")
    };
    for (bytes, message) in [
        (b"PK\x03\x04".to_vec(), "numpy.save"),
        (b"\x93NUMPY\x01".to_vec(), "ends early"),
        (b"\x93NUMPY\x07\0\x10\0".to_vec(), "unknown version"),
        (npy(1, &with("<f4", "False", "(2,)"), &[0; 8])[..40].to_vec(), "ends early"),
        (npy(1, &with("<f4", "False", "(2,)"), &[0; 7]), "needs 8 bytes, there are 7"),
        (npy(1, &with("<f4", "False", "(2,)"), &[0; 9]), "there are 9"),
        (npy(1, &with(">f4", "False", "(2,)"), &[0; 8]), "astype"),
        (npy(1, &with("<U3", "False", "(2,)"), &[0; 24]), "\"<U3\""),
        (npy(1, &with("<f4", "True", "(2, 1)"), &[0; 8]), "Fortran"),
        (npy(1, &with("<f4", "False", "(-2,)"), &[0; 8]), "shape (-2,)"),
        (npy(1, &with("<f4", "False", "2"), &[0; 8]), "shape 2"),
        (npy(1, &with("<f4", "False", "(1,1,1,1,1,1,1,1,1)"), &[0; 4]), "shape (1,1"),
        (npy(1, &with("|u1", "False", "(4294967296, 4294967296, 9)"), &[]), "there are 0"),
        (npy(1, "{'descr': '<f4'}", &[]), "\"fortran_order\""),
        (npy(1, "", &[]), "\"descr\""),
    ] {
        let error = read(&bytes).unwrap_err();
        assert_eq!(error.code(), "data.array");
        let shown = error.to_string();
        assert!(shown.contains(message) && shown.contains("set/a.npy"), "{shown}");
    }
    let path = Path::new("set/a.npy");
    let spec = ArraySpec { shape: vec![2] };
    let shown = spec.tensor(&Tensor::new(&[1, 2], &[1f32, 2.0]).unwrap(), path).unwrap_err();
    assert!(shown.to_string().contains("shape [1, 2]; the backbone takes [2]"), "{shown}");
    let shown = spec.tensor(&Tensor::new(&[2], &[1f32, f32::INFINITY]).unwrap(), path).unwrap_err();
    assert!(shown.to_string().contains("element 1 is not a finite number"), "{shown}");
}
